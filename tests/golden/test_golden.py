"""The printed network after the import and after each pass, against files; ``pytest --update-golden`` rewrites them.

The weights are multiples of 1/128 drawn by numpy, and scales are estimated from them, so that every machine prints the
same; floats are printed as a hash of their leading bits only (``compiler/ir/text.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resformer.compiler.ir.text import format_graph
from resformer.compiler.pipeline import CHECKPOINT, CompileOptions, compile_checkpoint
from resformer.models.checkpoint import save_checkpoint
from resformer.models.spikingresformer import Architecture, SpikingResformer

HERE = Path(__file__).parent

NETWORKS: dict[str, dict[str, Any]] = {
    "imagenet-lif": {"stem": "imagenet", "neuron": "LIF", "image_size": 16},
    "conv3x3-plif": {"stem": "conv3x3", "neuron": "PLIF", "image_size": 8},
}


def write_checkpoint(path: Path, *, stem: Any, neuron: Any, image_size: int) -> None:
    """A network of two stages whose every tensor numpy draws."""
    architecture = Architecture(
        planes=(8, 16),
        blocks=(("DSSA", "GWFFN"), ("DSSA", "GWFFN")),
        num_heads=(1, 2),
        patch_sizes=(2, 1),
        ffn_ratios=(2, 2),
        ffn_convs=(1, 1),
        group_sizes=(8, 8),
        in_channels=3,
        num_classes=10,
        stem=stem,
        neuron=neuron,
    )
    model = SpikingResformer(architecture, timesteps=4, image_size=image_size)
    rng = np.random.default_rng(1)
    state = {}
    for name, tensor in model.state_dict().items():
        low, high = -127, 127
        if name.endswith(("running_var", "bn.weight")):
            low, high = 64, 255
        elif "firing_rate" in name:
            low, high = 12, 26
        elif name.endswith((".w", "running_mean")):
            low, high = -16, 16
        drawn = rng.integers(low, high, tensor.shape, endpoint=True) / 128
        state[name] = tensor if name.endswith("num_batches_tracked") else torch.tensor(drawn, dtype=torch.float32)
    model.load_state_dict(state)
    save_checkpoint(model, path)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Where a network's files lie, and what the compiler prints for each."""
    name = request.param
    path = tmp_path_factory.mktemp(name) / "model.pt"
    write_checkpoint(path, **NETWORKS[name])
    printed: dict[str, str] = {}

    def observe(pass_name: str, graph: Any) -> None:
        printed[f"{len(printed)}-{pass_name}.txt"] = format_graph(graph)

    compile_checkpoint(path, CompileOptions(timesteps=4, image_size=NETWORKS[name]["image_size"]), observe)
    return HERE / name, printed


def test_networks_print_as_they_did(network: tuple[Path, dict[str, str]], pytestconfig: pytest.Config) -> None:
    folder, printed = network
    assert [name.split("-", 1)[1] for name in printed] == [f"{each}.txt" for each in CHECKPOINT.pass_names]
    if pytestconfig.getoption("update_golden"):
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for name, text in printed.items():
            (folder / name).write_text(text, encoding="utf-8")
    files = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert files.keys() == printed.keys(), "run pytest --update-golden, and look at what changed"
    for name, text in printed.items():
        # line by line, so that a failure shows the lines that differ
        assert text.splitlines() == files[name].splitlines(), f"{folder.name}/{name}: pytest --update-golden?"
