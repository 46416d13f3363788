"""The table of layouts in a terminal; this module imports nothing heavy, since each command may show the table."""

from __future__ import annotations

from collections.abc import Sequence

from resformer.compiler.files.placement import Layout
from resformer.runtime.units import COMPARED, common_power, prefixed, scaled


def layout_rows(layout: Layout) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Headings and rows of a table: the layout with the fewest cores, the chosen one, and the bound of all layouts."""
    compared = (layout["default"], layout["chosen"])
    time = common_power([1e-9 * each["step_ns"] for each in compared], "s")
    energy = common_power([1e-3 * each["energy_mj"] for each in compared], "J")
    is_time = layout["goal"] == "time"

    def seconds(ns: float) -> str:
        return scaled(1e-9 * ns, time, COMPARED)

    def joules(mj: float) -> str:
        return scaled(1e-3 * mj, energy, COMPARED)

    step, sample = f" a step, {prefixed('s', time)}", f" a sample, {prefixed('J', energy)}"
    headings = ("layout", " cores", " chips", step, " from", " to", sample, " from", " to")
    rows: list[Sequence[str]] = [
        (
            title,
            f"{each['cores']:,}",
            f"{each['chips']:,}",
            *(seconds(ns) for ns in (each["step_ns"], *each["step_ns_between"])),
            *(joules(mj) for mj in (each["energy_mj"], *each["energy_mj_between"])),
        )
        for title, each in zip(("fewest cores", f"for {layout['goal']}"), compared, strict=True)
    ]
    bound = ["-"] * len(headings)
    bound[0], bound[1] = "no layout below", f"{layout['cores_allowed']:,}"
    bound[headings.index(step if is_time else sample)] = (
        seconds(layout["least"]) if is_time else joules(layout["least"])
    )
    rows.append(bound)
    return headings, rows
