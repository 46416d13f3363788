"""Each operation against a plain restatement of it."""

from collections.abc import Callable

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.primitives import Add, BatchNorm2d, MaxPool2d, SpikeMatMul, constant

RNG = np.random.default_rng(0)


def values(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.normal(size=shape))


def spikes(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.integers(0, 2, shape).astype(float))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_conv2d(groups: int, bias: float) -> None:
    x, weight = values(2, 3, 4, 6, 5), RNG.normal(size=(6, 4 // groups, 3, 2))
    op = nir.Conv2d((6, 5), weight, (2, 1), (1, 0), (1, 2), groups, np.full(6, bias))
    result = float_interpreter.evaluate(op, x)
    for step in range(2):
        wanted = F.conv2d(x[step], torch.from_numpy(weight), None, (2, 1), (1, 0), (1, 2), groups) + bias
        torch.testing.assert_close(result[step], wanted, rtol=0, atol=1e-14)


def test_batch_norm() -> None:
    x = values(2, 3, 4, 2, 2)
    weight, bias, mean = RNG.normal(size=(3, 4))
    var = RNG.uniform(1, 2, 4)
    result = float_interpreter.evaluate(BatchNorm2d(weight, bias, mean, var, 1e-5), x)
    wide = [each[:, None, None] for each in (mean, var, weight, bias)]
    wanted = (x.numpy() - wide[0]) / np.sqrt(wide[1] + 1e-5) * wide[2] + wide[3]
    np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-14)


def test_parameters_that_repeat_have_their_shape_whole() -> None:
    """As files hold them: one value, and strides of zero."""
    x, flat = values(2, 3, 4, 5, 5), values(2, 3, 4)

    def same(make: Callable[[Callable[[float, tuple[int, ...]], np.ndarray]], nir.NIRNode], x: torch.Tensor) -> None:
        wanted = float_interpreter.evaluate(make(lambda value, shape: np.full(shape, value)), x)
        assert torch.equal(float_interpreter.evaluate(make(constant), x), wanted)

    same(lambda fill: nir.Conv2d((5, 5), fill(0.5, (6, 2, 3, 3)), 1, (1, 1), 1, 2, fill(0.25, (6,))), x)
    same(lambda fill: BatchNorm2d(fill(2.0, (4,)), fill(0.5, (4,)), fill(0.25, (4,)), fill(1.5, (4,)), 1e-5), x)
    same(lambda fill: nir.Linear(fill(0.5, (3, 4))), flat)
    same(lambda fill: nir.Affine(fill(0.5, (3, 4)), fill(0.25, (3,))), flat)


def test_pools() -> None:
    x = values(2, 3, 4, 6, 6)
    kernel, stride, padding = np.array([3, 2]), np.array([2, 2]), np.array([1, 0])
    windows = F.unfold(F.pad(x.flatten(0, 1), (0, 0, 1, 1)), (3, 2), stride=(2, 2)).reshape(2, 3, 4, 6, 3, 3)
    torch.testing.assert_close(
        float_interpreter.evaluate(nir.SumPool2d(kernel, stride, padding), x), windows.sum(3), rtol=0, atol=1e-14
    )
    torch.testing.assert_close(
        float_interpreter.evaluate(nir.AvgPool2d(kernel, stride, padding), x), windows.mean(3), rtol=0, atol=1e-14
    )
    lowest = F.pad(x.flatten(0, 1), (0, 0, 1, 1), value=-torch.inf)
    maxima = F.unfold(lowest, (3, 2), stride=(2, 2)).reshape(2, 3, 4, 6, 3, 3).amax(3)
    assert torch.equal(float_interpreter.evaluate(MaxPool2d(kernel, stride, padding), x), maxima)


@pytest.mark.parametrize("part", ["y1", "y2", "all"])
@pytest.mark.parametrize("transpose", [True, False])
def test_spike_matmul(part: str, transpose: bool) -> None:
    steps, batch, heads, width, patches, positions = 2, 3, 2, 3, 4, 16
    held = width if part == "all" else 2 * width
    y = values(steps, batch, heads * held, 2, 2)
    gates = spikes(steps, batch, heads * width, 4, 4) if transpose else spikes(steps, batch, heads, patches, positions)
    result = float_interpreter.evaluate(SpikeMatMul(heads, transpose, part), y, gates)
    first = width if part == "y2" else 0
    for head in range(heads):
        used = y[:, :, head * held + first : head * held + first + width].reshape(steps, batch, width, patches)
        if transpose:
            x = gates[:, :, head * width : (head + 1) * width].reshape(steps, batch, width, positions)
            wanted = torch.einsum("tbcp,tbcq->tbpq", used, x)
        else:
            wanted = torch.einsum("tbcp,tbpq->tbcq", used, gates[:, :, head])
        torch.testing.assert_close(result[:, :, head], wanted, rtol=0, atol=1e-14)


def test_linear_affine_scale_flatten_add() -> None:
    x, weight, bias = values(2, 3, 4), RNG.normal(size=(5, 4)), RNG.normal(size=5)
    product = np.einsum("tbi,oi->tbo", x.numpy(), weight)
    np.testing.assert_allclose(float_interpreter.evaluate(nir.Linear(weight), x), product, atol=1e-14)
    np.testing.assert_allclose(float_interpreter.evaluate(nir.Affine(weight, bias), x), product + bias, atol=1e-14)

    maps = values(2, 3, 4, 2, 2)
    scale = np.broadcast_to(RNG.normal(size=(4, 1, 1)), (4, 2, 2))
    np.testing.assert_array_equal(float_interpreter.evaluate(nir.Scale(scale), maps), maps.numpy() * scale)
    assert float_interpreter.evaluate(nir.Flatten({"input": np.array([4, 2, 2])}, 0), maps).shape == (2, 3, 16)

    huge = torch.full_like(maps, 1e17)
    assert torch.equal(float_interpreter.evaluate(Add(), huge, -huge, maps), maps), "sums run left to right"


def test_lif_with_every_parameter() -> None:
    """r, v_leak, v_reset and v_threshold other than the frontend's, one value a neuron, against a loop of floats."""
    steps, neurons, dt = 12, 40, 0.25
    tau, r, threshold = RNG.uniform(1, 4, neurons), RNG.uniform(0.5, 2, neurons), RNG.uniform(0.5, 1.5, neurons)
    leak, reset = RNG.uniform(-0.2, 0.2, neurons), RNG.uniform(-0.5, 0.2, neurons)
    current = RNG.normal(1, 1, size=(steps, 1, neurons))
    lif = nir.LIF(tau=tau, r=r, v_leak=leak, v_threshold=threshold, v_reset=reset)
    result = float_interpreter.fire(lif, torch.from_numpy(current), dt)

    wanted = np.zeros_like(current)
    for neuron in range(neurons):
        v = reset[neuron]
        for step in range(steps):
            v += dt / tau[neuron] * (leak[neuron] - v + r[neuron] * current[step, 0, neuron])
            if v >= threshold[neuron]:
                wanted[step, 0, neuron], v = 1, reset[neuron]
    assert 0 < wanted.mean() < 1
    np.testing.assert_array_equal(result, wanted)


def test_if_fires_above_its_threshold_if_it_says_so() -> None:
    """r, v_reset and v_threshold, one value a neuron, against a loop of floats; half of all is a tie."""
    steps, neurons, dt = 12, 40, 0.25
    r, threshold, reset = RNG.integers(1, 4, neurons), RNG.integers(1, 4, neurons), RNG.integers(-2, 1, neurons)
    current = RNG.integers(0, 2, size=(steps, 1, neurons)) * 4.0
    wanted = {}
    for crosses in (">", ">="):
        op = nir.IF(
            r=r.astype(float),
            v_threshold=threshold.astype(float),
            v_reset=reset.astype(float),
            metadata={"fires_at": crosses},
        )
        wanted[crosses] = np.zeros_like(current)
        for neuron in range(neurons):
            v = float(reset[neuron])
            for step in range(steps):
                v += dt * r[neuron] * current[step, 0, neuron]
                if v > threshold[neuron] or (crosses == ">=" and v == threshold[neuron]):
                    wanted[crosses][step, 0, neuron], v = 1, reset[neuron]
        np.testing.assert_array_equal(float_interpreter.fire(op, torch.from_numpy(current), dt), wanted[crosses])
    assert (wanted[">"] != wanted[">="]).any()


def chain() -> Graph[nir.NIRNode]:
    """input - neurons - linear - output, T = 3."""
    shape = (2,)
    lif = nir.LIF(*(constant(value, shape) for value in (2e-4, 1.0, 0.0, 1.0, 0.0)), metadata={"tau_steps": 2.0})
    nodes = (
        Node("input", nir.Input({"input": np.array([2, 1, 1])}), (), (2, 1, 1)),
        Node("flatten", nir.Flatten({"input": np.array([2, 1, 1])}, 0), ("input",), shape),
        Node("lif", lif, ("flatten",), shape),
        Node("linear", nir.Linear(np.array([[1.0, 10.0]])), ("lif",), (1,)),
        Node("output", nir.Output({"output": np.array([1])}), ("linear",), (1,)),
    )
    return Graph(nodes, 3, {"dt": 1e-4})


def test_run_repeats_images_and_takes_frames() -> None:
    image = torch.tensor([[[[2.0]], [[1.5]]]], dtype=torch.float64)
    assert float_interpreter.run(chain(), image).flatten().tolist() == [1, 11, 1]
    frames = torch.tensor([[0.0, 2.0], [0.0, 0.0], [2.0, 2.0]], dtype=torch.float64).reshape(1, 3, 2, 1, 1)
    assert float_interpreter.run(chain(), frames).flatten().tolist() == [10, 0, 11]
    assert torch.equal(float_interpreter.run(chain(), image.numpy()), float_interpreter.run(chain(), image))


def test_run_tells_every_value_and_computes_in_the_type_asked_for() -> None:
    seen: dict[str, torch.Tensor] = {}
    logits = float_interpreter.run(
        chain(), torch.ones(4, 2, 1, 1), observe=lambda name, value: seen.update({name: value}), dtype=torch.float32
    )
    assert list(seen) == ["input", "flatten", "lif", "linear", "output"]
    assert {name: tuple(value.shape) for name, value in seen.items()} == {
        "input": (3, 4, 2, 1, 1),
        "flatten": (3, 4, 2),
        "lif": (3, 4, 2),
        "linear": (3, 4, 1),
        "output": (3, 4, 1),
    }
    assert logits.dtype == torch.float32


def test_frames_must_be_as_many_as_steps() -> None:
    with pytest.raises(AssertionError, match="2 frames for 3 steps"):
        float_interpreter.run(chain(), torch.ones(1, 2, 2, 1, 1))
