"""How verdicts are worded."""

from __future__ import annotations

import pytest

from resformer.runtime.verify.conclude import compared_graphs
from resformer.runtime.verify.graphs import A_FILE


@pytest.mark.parametrize(
    ("passes", "told"),
    [
        ((), "the import"),
        (("a",), "the import, after its only pass"),
        (("a", "b"), "the import, after each of 2 passes"),
    ],
)
def test_compared_graphs_are_counted(passes: tuple[str, ...], told: str) -> None:
    assert compared_graphs(("import", *passes)) == told
    assert compared_graphs(("import", *passes, A_FILE)) == f"{told}, and the build's file"
    assert compared_graphs((A_FILE,)) == "the build's file"
