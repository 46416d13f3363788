"""The table that a terminal shows of layouts; it imports nothing heavy, since each command may show it."""

from __future__ import annotations

from collections.abc import Sequence

from resformer.compiler.files.placement import Layout


def layout_rows(layout: Layout) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Both layouts and the bound, as a table: headings and rows."""
    headings = ("layout", " cores", " chips", " a step, us", " from", " to", " a sample, mJ", " from", " to")
    rows: list[Sequence[str]] = [
        (
            title,
            f"{each['cores']:,}",
            f"{each['chips']:,}",
            *(f"{1e-3 * ns:,.4g}" for ns in (each["step_ns"], *each["step_ns_between"])),
            *(f"{mj:,.4g}" for mj in (each["energy_mj"], *each["energy_mj_between"])),
        )
        for title, each in (("fewest cores", layout["default"]), (f"for {layout['goal']}", layout["chosen"]))
    ]
    is_time = layout["goal"] == "time"
    least = f"{1e-3 * layout['least']:,.4g}" if is_time else f"{layout['least']:,.4g}"
    bound = ["-"] * len(headings)
    bound[0], bound[1] = "no layout below", f"{layout['cores_allowed']:,}"
    bound[headings.index(" a step, us" if is_time else " a sample, mJ")] = least
    rows.append(bound)
    return headings, rows
