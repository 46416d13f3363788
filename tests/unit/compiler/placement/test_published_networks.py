"""Networks whose cores Intel's compiler printed: lava-dl, tutorials/lava/lib/dl/netx."""

from __future__ import annotations

import pytest

from resformer.compiler.chips.chip import load_chip
from resformer.compiler.placement.place import Placement, place
from support.program_builder import ProgramBuilder

TOLERANCE = 0.15
PILOTNET_CORES = 74
"""pilotnet_snn/benchmark.ipynb."""
YOLO_CORES = [224, 112, 56, 28, 56, 16, 32, 14, 32, 4]
"""yolo_kp/run.ipynb, convolution by convolution: 574 in all."""


def largest(bits: int) -> int:
    return 2 ** (bits - 1) - 1


def pilotnet() -> Placement:
    """Layers (outputs, kernel, stride (rows, columns), row padding) and the weights' bits, read off words a row."""
    net = ProgramBuilder((3, 66, 200))
    source = "input"
    layers = [
        (24, (2, 2), 0, 7),
        (36, (2, 2), 0, 6),
        (48, (2, 2), 0, 6),
        (64, (2, 1), 1, 4),
        (64, (1, 1), 0, 4),
    ]
    for index, (outputs, stride, padding, bits) in enumerate(layers):
        conv = net.conv(
            f"conv{index}", source, outputs, (3, 3), stride=stride, padding=(padding, 0), largest=largest(bits)
        )
        source = net.lif(f"lif{index}", conv)
    assert net.shape(source) == (64, 2, 20)
    source = net.flatten("flatten", source)
    for index, outputs in enumerate((100, 50, 10, 1)):
        source = net.lif(f"spikes{index}", net.dense(f"dense{index}", source, outputs, largest=largest(4)))
    return place(net.finish(), load_chip("loihi2"))


def test_pilotnet_takes_as_many_cores_as_intels_compiler_says() -> None:
    placement = pilotnet()
    assert placement.violations == ()
    assert placement.cores == pytest.approx(PILOTNET_CORES, rel=TOLERANCE)
    cores = {layer.population.name: layer.cores for layer in placement.layers}
    # what was printed; conv1's channels are split here, and were not there
    assert [cores[name] for name in ("input", "lif0", "lif2", "lif3", "lif4")] == [13, 25, 3, 3, 2]
    assert cores["lif1"] <= 13
    words = {layer.population.name: layer.tiling.usage["synapse words"] for layer in placement.layers}
    assert [words[name] for name in ("lif0", "lif2", "lif3", "lif4")] == [81, 1620, 2160, 2880]


def test_a_detector_takes_the_cores_that_intels_compiler_says_layer_by_layer() -> None:
    net = ProgramBuilder((3, 448, 448))
    source = "input"
    layers = [(16, 3, 2, 7), (32, 3, 2, 7), (64, 3, 2, 5), (128, 3, 2, 5), (256, 3, 1, 5), (256, 3, 2, 5)]
    layers += [(512, 3, 1, 5), (256, 1, 1, 8), (512, 3, 1, 5), (48, 1, 1, 8)]
    for index, (outputs, kernel, stride, bits) in enumerate(layers):
        conv = net.conv(
            f"conv{index}",
            source,
            outputs,
            (kernel, kernel),
            stride=(stride, stride),
            padding=(kernel // 2, kernel // 2),
            largest=largest(bits),
        )
        source = net.lif(f"lif{index}", conv)
    placement = place(net.finish(), load_chip("loihi2"))
    # the camera's pixels are not on the chip there
    cores = {layer.population.name: layer.cores for layer in placement.layers}
    assert [cores[f"lif{index}"] for index in range(len(layers))] == YOLO_CORES
