"""The sums that ``report.json`` gives of a build, by hand."""

from __future__ import annotations

import json

from support.builds import Tiny


def test_graded_neurons_are_those_of_relays_and_products(tiny: Tiny) -> None:
    """Two stages: 8 channels of 4 x 4 and 12 of 2 x 2. Max-pools have no neurons of their own, but their relays do."""
    report = json.loads((tiny.build / "report.json").read_text())
    first, second = 8 * 4 * 4, 12 * 2 * 2
    expected = {
        "prologue.2.relay": first,
        "layers.0.0.matmul1": 1 * 4 * 16,  # a head, 4 patches, 16 positions
        "layers.0.0.matmul2": first,
        "layers.0.0.add.relay": first,
        "layers.0.1.add.relay": first,
        "layers.1.0.conv.relay": second,
        "layers.1.1.matmul1": 2 * 4 * 4,  # two heads, 4 patches, 4 positions
        "layers.1.1.matmul2": second,
        "layers.1.2.add.relay": second,
        "avgpool.relay": 12,
    }
    names = [node["name"] for node in report["nodes"] if not node["name"].endswith(".delay")]
    assert [name for name in names if "relay" in name or "matmul" in name] == list(expected)
    assert report["totals"]["graded_neurons"] == sum(expected.values())
