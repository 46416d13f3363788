"""A chip's constants, from a user's YAML to the figures of ``resformer-run --cost``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resformer.runtime.cli.run import main as run_main
from resformer.runtime.run import infer as run
from resformer.runtime.units import between
from support.builds import Tiny, read_json
from support.pages import read_page


def cost(tiny: Tiny, folder: Path, line: str = "") -> Any:
    chip, result = folder / "mine.yaml", folder / "c.json"
    chip.write_text(f"name: mine\nextends: loihi2\n{line}\n")
    given = ["--input", str(tiny.images), "--samples", "1", "--backend", "sim"]
    assert run_main([str(tiny.build), *given, "--cost", "--chip", str(chip), "--json", str(result)]) == 0
    return read_json(result)


def total(content: Any, name: str) -> float:
    return sum(layer[name] for layer in content["layers"])


@pytest.mark.parametrize(
    ("constant", "grows", "count"),
    [
        ("synaptic_op_pj", "synapses_pj", lambda c: total(c, "operations")),
        ("neuron_update_active_pj", "neurons_pj", lambda c: total(c, "active")),
        ("neuron_update_inactive_pj", "neurons_pj", lambda c: total(c, "updates") - total(c, "active")),
        ("spike_in_tile_pj", "messages_pj", lambda c: total(c, "messages")),
    ],
)
def test_a_dearer_operation_costs_as_much_more(
    tiny: Tiny, tmp_path: Path, constant: str, grows: str, count: Any
) -> None:
    before = cost(tiny, tmp_path)
    price = before["chip"]["constants"][constant]["value"]
    after = cost(tiny, tmp_path, f"{constant}: {price + 1000}")
    assert total(after, grows) - total(before, grows) == pytest.approx(1000 * count(before), rel=1e-9)
    others = {"synapses_pj", "neurons_pj", "messages_pj"} - {grows}
    assert all(total(after, name) == total(before, name) for name in others)
    more = after["energy_mj"]["dynamic"] - before["energy_mj"]["dynamic"]
    assert more == pytest.approx(1e-9 * 1000 * count(before), rel=1e-9)
    assert after["energy_mj"]["static"] == before["energy_mj"]["static"]
    assert after["step_ns"] == before["step_ns"]
    assert after["chip"]["constants"][constant] == {
        "value": price + 1000,
        "range": None,
        "status": "assumed",
        "source": "given in mine.yaml",
    }


def test_a_slower_barrier_and_idle_power(tiny: Tiny, tmp_path: Path) -> None:
    before, steps = cost(tiny, tmp_path), read_json(tiny.build / "report.json")["timesteps"]
    slower = cost(tiny, tmp_path, "step_ns: 5200")
    assert slower["step_ns"] - before["step_ns"] == pytest.approx(5000)
    assert slower["interval_us"] == pytest.approx(steps * slower["step_ns"] * 1e-3)
    hotter = cost(tiny, tmp_path, "static_mw_per_chip: 542")
    assert hotter["energy_mj"]["static"] == pytest.approx(2 * before["energy_mj"]["static"])
    assert hotter["energy_mj"]["dynamic"] == before["energy_mj"]["dynamic"]


def test_a_constants_range_is_the_intervals(tiny: Tiny, tmp_path: Path) -> None:
    """For each constant alone: in all figures that it enters, and in no others."""
    known = {name: each["value"] for name, each in cost(tiny, tmp_path)["chip"]["constants"].items()}
    costs = [name for name in known if name.endswith(("_pj", "_ns", "_mw_per_chip"))]
    exact = "\n".join(f"{name}: {known[name]}" for name in costs)
    alone = cost(tiny, tmp_path, exact)
    figures = ("step_ns", "latency_us", "interval_us", "power_mw")
    assert all(alone["intervals"][name] == [alone[name]] * 2 for name in figures)
    assert alone["intervals"]["energy_mj"] == {name: [each] * 2 for name, each in alone["energy_mj"].items()}

    def ranged(name: str) -> Any:
        value = known[name]
        line = f"{name}: {{value: {value}, range: [{value / 2}, {value * 3}]}}"
        return cost(tiny, tmp_path, exact.replace(f"{name}: {value}", line))

    idle = ranged("static_mw_per_chip")
    static = alone["energy_mj"]["static"]
    assert idle["energy_mj"] == alone["energy_mj"]
    assert idle["intervals"]["energy_mj"]["static"] == pytest.approx([static / 2, static * 3])
    assert idle["intervals"]["energy_mj"]["dynamic"] == [alone["energy_mj"]["dynamic"]] * 2
    assert idle["intervals"]["step_ns"] == [alone["step_ns"]] * 2
    power = [alone["power_mw"] + factor * known["static_mw_per_chip"] for factor in (-1 / 2, 2)]
    assert idle["intervals"]["power_mw"] == pytest.approx(power)

    dear = ranged("synaptic_op_pj")
    synapses = total(alone, "synapses_pj") * 1e-9
    low, high = dear["intervals"]["energy_mj"]["dynamic"]
    assert (low, high) == pytest.approx(
        (alone["energy_mj"]["dynamic"] - synapses / 2, alone["energy_mj"]["dynamic"] + 2 * synapses)
    )
    assert dear["intervals"]["energy_mj"]["static"] == [static] * 2

    slow = ranged("step_ns")
    assert slow["intervals"]["step_ns"] == pytest.approx([alone["step_ns"] - 100, alone["step_ns"] + 400])
    steps = alone["timesteps"]
    assert slow["intervals"]["interval_us"] == pytest.approx(
        [steps * each * 1e-3 for each in slow["intervals"]["step_ns"]]
    )
    assert slow["intervals"]["energy_mj"]["static"] == pytest.approx(
        [static * each / alone["step_ns"] for each in slow["intervals"]["step_ns"]]
    )
    # the same energy in a shorter time is more power
    dynamic = alone["energy_mj"]["dynamic"] * 1e6
    assert slow["intervals"]["power_mw"] == pytest.approx(
        [known["static_mw_per_chip"] + dynamic / each for each in reversed(slow["intervals"]["interval_us"])]
    )


def test_intervals_are_shown_and_reach_the_page(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nextends: loihi2\nstatic_mw_per_chip: {value: 9, range: [1, 99]}\n")
    given = [str(tiny.build), "--input", str(tiny.images), "--samples", "1", "--backend", "sim", "--cost"]
    page, table = tmp_path / "page.html", tmp_path / "c.json"
    chip = ["--chip", str(tmp_path / "mine.yaml")]
    assert run_main([*given, *chip, "--json", str(table), "--report", str(page)]) == 0
    found, out = read_json(table), capsys.readouterr().out
    assert found["intervals"]["power_mw"][0] < found["power_mw"] < found["intervals"]["power_mw"][1]
    low, high = found["intervals"]["energy_mj"]["static"]
    assert between(*(1e-3 * each for each in (found["energy_mj"]["static"], low, high)), "J") in out
    drawn = read_page(page)[0]["builds"][0]["cost"]
    assert drawn["intervals"] == found["intervals"]
    assert drawn["chip"]["constants"]["static_mw_per_chip"]["range"] == [1, 99]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("step_ns: {value: 1, range: [3, 1]}", "mine.yaml:3: step_ns: its range [3, 1] is reversed"),
        ("step_ns: {value: 1, range: [-3, 1]}", "mine.yaml:3: step_ns: its range's end is -3; the least is 0"),
        ("synaptic_op_pj: -1", "mine.yaml:3: synaptic_op_pj is -1"),
        ("synop_pj: 1", "mine.yaml:3: synop_pj: no such"),
    ],
)
def test_wrong_constants_name_their_line(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    (tmp_path / "mine.yaml").write_text(f"name: mine\nextends: loihi2\n{line}\n")
    given = ["--input", str(tiny.images), "--cost", "--chip", str(tmp_path / "mine.yaml")]
    assert run_main([str(tiny.build), *given]) == 1
    assert message in capsys.readouterr().err


def test_spreading_tells_the_cost_of_the_faster_layout(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = cost(tiny, tmp_path)
    given = ["--input", str(tiny.images), "--samples", "1", "--backend", "sim", "--cost", "--spread"]
    capsys.readouterr()
    assert run_main([str(tiny.build), *given, "--json", str(tmp_path / "s.json")]) == 0
    after = read_json(tmp_path / "s.json")
    assert after["step_ns"] < before["step_ns"]
    assert before["cores"] < after["cores"] <= 120
    assert after["paper"] == before["paper"]
    assert f"spread: {before['cores']} to {after['cores']} cores" in capsys.readouterr().out
    assert run_main([str(tiny.build), "--input", str(tiny.images), "--spread"]) == 2
    assert "--spread: goes with --cost" in capsys.readouterr().err
    assert run_main([str(tiny.build), *given, "--report", str(tmp_path / "r.html")]) == 2
    assert "--spread: not with --report" in capsys.readouterr().err


def test_more_chips_than_there_are_is_said_before_the_run(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "infer_part", lambda *_arguments, **_options: pytest.fail("it ran"))
    given = ["--input", str(tiny.images), "--backend", "sim", "--cost", "--spread", "2000"]
    assert run_main([str(tiny.build), *given]) == 1
    assert "--spread: 2,000 chips" in capsys.readouterr().err
