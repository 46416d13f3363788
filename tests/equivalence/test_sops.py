"""SOPs equal those of the authors' ``SOPMonitor`` definition, counted with hooks on SpikingJelly, to the last unit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional
from torch import nn

from resformer.compiler.backends.checkpoint import quantized_state
from resformer.compiler.ir import reference
from resformer.compiler.ir.trace import SpikeTrain
from resformer.compiler.pipeline import compile_checkpoint
from resformer.models.checkpoint import save_checkpoint
from resformer.models.layers import SpikeMatMul
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.activity import measure
from resformer.runtime.encode import decode, encode
from resformer.runtime.torch_network import TorchNetwork

MNIST = Path(__file__).parents[2] / "examples" / "mnist"


def hooked_sops(model: SpikingResformer, samples: npt.NDArray[np.float64]) -> dict[str, list[int]]:
    """SOPs of each module at each step, summed over samples: every weight one, no bias, the real operand ones."""
    found: dict[str, list[int]] = {}

    def convolution(name: str, module: nn.Conv2d) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: Any, _output: Any) -> None:
            (x,) = inputs
            assert ((x == 0) | (x == 1)).all(), name
            ones = torch.ones_like(module.weight)
            found[name] = [
                int(F.conv2d(step, ones, None, module.stride, module.padding, module.dilation, module.groups).sum())
                for step in x
            ]

        return hook

    def product(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: Any, _output: Any) -> None:
            real, spikes = inputs
            found[name] = [int(each.sum()) for each in torch.matmul(torch.ones_like(real), spikes)]

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and not name.startswith("prologue"):
            module.register_forward_hook(convolution(name, module))
        elif isinstance(module, SpikeMatMul):
            module.register_forward_hook(product(name))
    with torch.no_grad():
        functional.reset_net(model)
        model(torch.from_numpy(samples))
    return found


def compare(path: Path, images: npt.NDArray[Any]) -> None:
    compilation = compile_checkpoint(path)
    program, architecture = compilation.program, compilation.source.architecture
    encoded = encode(images.astype(np.float64), program).values
    twin = SpikingResformer(architecture, timesteps=program.timesteps, image_size=compilation.source.image_size)
    twin.double().load_state_dict(quantized_state(compilation.quantized), strict=True)
    network, spikes = TorchNetwork(twin.eval()), {}
    inputs = decode(encoded, program)
    network.run(inputs, lambda name, _currents, fired: spikes.update({name: SpikeTrain.pack(fired.numpy())}))
    if program.is_dyadic:
        recorded = reference.run(program, encoded, record=True).spikes
        assert all(recorded[name].mismatches(train) == 0 for name, train in spikes.items())
        spikes = recorded
    # PLIF's decay is rounded, so its spikes are not the program's: there SpikingJelly's own are counted
    activity = measure(program, spikes)
    expected = hooked_sops(twin, inputs)

    # our two halves of W are one convolution there
    counted: dict[str, npt.NDArray[np.int64]] = {}
    for name, steps in activity.sops.items():
        key = name.removesuffix(".y1").removesuffix(".y2")
        counted[key] = counted.get(key, np.zeros_like(steps)) + steps
    assert {name: steps.tolist() for name, steps in counted.items()} == expected
    assert sum(map(sum, expected.values())) > 0
    assert activity.sops_per_sample == sum(map(sum, expected.values())) / len(images)


@pytest.mark.parametrize(
    ("fields", "frames"),
    [
        ({}, False),
        ({"stem": "imagenet", "in_channels": 3}, False),
        ({"neuron": "PLIF", "stem": "conv3x3"}, True),
        ({"planes": (8,), "blocks": (("DSSA", "GWFFN"),), "num_heads": (2,), "patch_sizes": (4,)}, False),
    ],
)
def test_random_networks(
    make_model: Callable[..., SpikingResformer], tmp_path: Path, fields: dict[str, Any], frames: bool
) -> None:
    if len(fields.get("planes", (0, 0))) == 1:
        fields |= {"ffn_ratios": (3,), "ffn_convs": (1,), "group_sizes": (4,)}
    model = make_model(**fields)
    path = tmp_path / "model.pt"
    save_checkpoint(model, path)
    steps = (model.timesteps,) if frames else ()
    shape = (3, *steps, model.architecture.in_channels, model.image_size, model.image_size)
    compare(path, np.random.default_rng(5).random(shape))


def test_mnist() -> None:
    compare(MNIST / "spikingresformer_mnist.pt", np.load(MNIST / "test_images.npy")[:2] / 255)
