"""E3: ``quantized.pt`` in SpikingJelly, float64, fires the very spikes of the integer program, ties included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from spikingjelly.activation_based import functional, neuron
from torch import nn

from resformer.compiler.export import checkpoint
from resformer.compiler.export.checkpoint import quantized_state
from resformer.compiler.frontend.checkpoint import import_model
from resformer.compiler.ir import reference
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.trace import Trace
from resformer.models.spikingresformer import SpikingResformer
from support.programs import Lowered, decode, encode, lower

MakeModel = Callable[..., SpikingResformer]
Spikes = dict[str, npt.NDArray[np.bool_]]


def samples(model: SpikingResformer, count: int = 3, *, frames: bool = False) -> npt.NDArray[np.float64]:
    steps = (model.timesteps,) if frames else ()
    shape = (count, *steps, model.architecture.in_channels, model.image_size, model.image_size)
    return np.random.default_rng(7).random(shape)


def run_torch(model: SpikingResformer, inputs: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], Spikes]:
    """Logits (T, N, classes), and each population's spikes, (T, N, ...)."""
    spikes: Spikes = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, output, name=name: spikes.update({name: output.numpy() == 1}))
        for name, module in model.named_modules()
        if isinstance(module, neuron.BaseNode)
    ]
    with torch.no_grad():
        logits = model(torch.from_numpy(inputs)).numpy()
    functional.reset_net(model)
    for hook in hooks:
        hook.remove()
    return logits, spikes


def mismatches(trace: Trace, spikes: Spikes) -> int:
    assert trace.spikes.keys() == spikes.keys()
    dense = {name: train.dense() for name, train in trace.spikes.items()}
    return sum(int((dense[name] != spikes[name].reshape(dense[name].shape)).sum()) for name in spikes)


def quantized_model(model: SpikingResformer, program: Program) -> SpikingResformer:
    """The network of ``quantized.pt``, as a user of the authors' code would load it."""
    twin = SpikingResformer(model.architecture, timesteps=model.timesteps, image_size=model.image_size).double()
    twin.load_state_dict(quantized_state(program), strict=True)
    return twin.eval()


def real_logits(program: Program, trace: Trace) -> npt.NDArray[np.float64]:
    op: Any = program.output.op
    logits: npt.NDArray[np.float64] = trace.logits * 2.0**-op.signal.scale_exp / op.divisor + op.bias
    return logits


def assert_equivalent(
    model: SpikingResformer, lowered: Lowered, images: npt.NDArray[np.float64], *, least_live: int | None = None
) -> None:
    """Require that no spike differs, that nothing saturates, and that populations fire now and then."""
    encoded = encode(lowered.program, images)
    trace = reference.run(lowered.program, encoded, record=True)
    logits, spikes = run_torch(quantized_model(model, lowered.quantized), decode(lowered.program, encoded))
    assert not any(trace.saturated.values()), "saturation is not what this test is about"
    live = [name for name, train in trace.spikes.items() if 0 < train.count < train.size]
    assert len(live) >= (len(trace.spikes) if least_live is None else least_live), f"only {live} are live"
    assert mismatches(trace, spikes) == 0
    # the shift of ties changes no spike; it is all that the logits differ by
    np.testing.assert_allclose(real_logits(lowered.program, trace), logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("timesteps", [1, 4, 7])
@pytest.mark.parametrize("bits", [12, 9, 8, 4, 3, 2])
@pytest.mark.parametrize("stem", ["imagenet", "conv3x3"])
def test_the_quantized_network_fires_the_program_s_spikes(
    make_model: MakeModel, bits: int, timesteps: int, stem: str
) -> None:
    model = make_model(stem=stem, timesteps=timesteps, seed=bits)
    images = samples(model)
    lowered = lower(import_model(model), images, weight_bits=bits, input_scale_exp=4)
    assert lowered.program.is_dyadic
    # with two bits and one step, some populations fall silent
    assert_equivalent(model, lowered, images, least_live=None if bits > 2 else 10)


def test_exponents_by_layer_and_frames_as_input(make_model: MakeModel) -> None:
    model = make_model(stem="conv3x3", timesteps=3)
    frames = np.floor(3 * samples(model, frames=True))
    lowered = lower(import_model(model, input_kind="frames"), frames, per_channel=False)
    assert_equivalent(model, lowered, frames)


def test_estimated_ranges_are_as_exact_as_measured_ones(make_model: MakeModel) -> None:
    model = make_model()
    assert_equivalent(model, lower(import_model(model)), samples(model))


# Ties


def coarse_model(make_model: MakeModel, seed: int, **fields: Any) -> SpikingResformer:
    """A network of weights and biases in quarters, which float64, eight bits and the reference all hold exactly."""
    model = make_model(seed=seed, **fields)
    state = quantized_state(lower(import_model(model)).quantized)
    for name, tensor in state.items():
        if tensor.is_floating_point() and name.endswith((".weight", ".bn.bias")) and "bn.weight" not in name:
            state[name] = torch.round(4 * tensor) / 4 if tensor.dim() == 1 else torch.round(2 * tensor) / 2
    model.load_state_dict(state, strict=True)
    return model


def count_ties(model: SpikingResformer, inputs: npt.NDArray[np.float64]) -> int:
    """How often a membrane potential meets its threshold exactly."""
    ties = 0

    def note(module: Any, arguments: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        nonlocal ties
        v = torch.zeros_like(arguments[0][0])
        for current in arguments[0]:
            v = v + (current - v) / module.tau
            ties += int((v == module.v_threshold).sum())
            v = torch.where(v >= module.v_threshold, 0.0, v)

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, neuron.LIFNode)]
    run_torch(model, inputs)
    for hook in hooks:
        hook.remove()
    return ties


@pytest.mark.parametrize("timesteps", [1, 4, 7])
@pytest.mark.parametrize("stem", ["imagenet", "conv3x3"])
def test_ties_fall_alike(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, stem: str, timesteps: int) -> None:
    """Loihi fires above its threshold, SpikingJelly at it: a surplus of the bias or the shift settles every tie."""
    model = coarse_model(make_model, seed=timesteps, stem=stem, timesteps=timesteps)
    images = np.round(4 * samples(model)) / 4
    lowered = lower(import_model(model), images)
    assert count_ties(model, images) > 100

    assert_equivalent(model, lowered, images, least_live=8)

    encoded = encode(lowered.program, images)
    trace = reference.run(lowered.program, encoded, record=True)
    monkeypatch.setattr(checkpoint, "TIE_SHIFT", 0.0)
    _, unshifted = run_torch(quantized_model(model, lowered.quantized), decode(lowered.program, encoded))
    if timesteps == 1:
        assert mismatches(trace, unshifted) == 0, "no bias needs a shift where the program itself fires at ties"
    else:
        assert mismatches(trace, unshifted) > 20, "without the shift, ties must show"


def test_weights_that_eight_bits_hold_are_kept_exactly(make_model: MakeModel) -> None:
    """So the quantized network equals the network, but for shifts where a bias leaves no room for a surplus."""
    model = coarse_model(make_model, seed=3)
    quantized = lower(import_model(model)).quantized
    state = quantized_state(quantized)
    shifted = set()
    for name, tensor in model.state_dict().items():
        if name.endswith(".weight") and name != "classifier.weight":
            assert torch.equal(tensor, state[name]), name
        if name.endswith("bn.bias"):
            shift = (tensor - state[name]).numpy()
            assert np.isin(shift, (0.0, checkpoint.TIE_SHIFT)).all(), name
            shifted |= set(shift.tolist())
    assert shifted == {0.0, checkpoint.TIE_SHIFT}, "both kinds of channels occur"


# Where it is not exact


@pytest.mark.parametrize("fields", [{"timesteps": 8}, {"neuron": "PLIF", "stem": "conv3x3"}], ids=["T=8", "PLIF"])
def test_where_potentials_are_rounded_spikes_are_only_close(make_model: MakeModel, fields: dict[str, Any]) -> None:
    model = make_model(**fields)
    images = samples(model)
    lowered = lower(import_model(model, input_kind="static"), images)
    assert not lowered.program.is_dyadic
    encoded = encode(lowered.program, images)
    trace = reference.run(lowered.program, encoded, record=True)
    _, spikes = run_torch(quantized_model(model, lowered.quantized), decode(lowered.program, encoded))
    # The first population gets the same currents, so that only the rounding of its own potentials counts. The few
    # spikes that this changes then change others from layer to layer.
    first = lowered.program.lif_names[0]
    train = trace.spikes[first]
    assert (train.dense() != spikes[first]).mean() < 0.002
    assert mismatches(trace, spikes) < 0.05 * sum(train.size for train in trace.spikes.values())


# The checkpoint itself


def test_both_scales_of_attention_and_all_normalisations_are_exactly_one(make_model: MakeModel) -> None:
    model = make_model(patch_sizes=(1, 1), image_size=28)  # 49 and 16 patches: 1/49 * 49 is not 1 in float64
    twin = quantized_model(model, lower(import_model(model)).quantized)
    for name, module in twin.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            assert module.running_mean is not None
            assert torch.equal(module.running_var + module.eps, torch.ones_like(module.running_var)), name
            assert (module.weight == 1).all(), name
            assert not module.running_mean.any(), name
        if hasattr(module, "firing_rate_x"):
            count = module.channels // module.num_heads
            assert (module.firing_rate_x * count == 1).all(), name
            assert (module.firing_rate_attn * module.num_patches == 1).all(), name


def test_rates_of_any_count_are_as_near_as_float64_allows() -> None:
    counts = range(1, 5000)
    rates = [checkpoint.unit_rate(count) for count in counts]
    assert max(abs(rate * count - 1) for rate, count in zip(rates, counts, strict=True)) <= 2**-52
    squares = [edge**2 for edge in range(1, 61)]  # patches
    assert all(checkpoint.unit_rate(count) * count == 1 for count in squares)


def test_networks_of_plif_keep_their_w_even_where_tau_is_2(make_model: MakeModel) -> None:
    model = make_model(neuron="PLIF", stem="conv3x3")
    nn.init.zeros_(next(tensor for name, tensor in model.named_parameters() if name.endswith(".w")))
    lowered = lower(import_model(model, input_kind="static"), samples(model))
    twin = quantized_model(model, lowered.quantized)
    for name, tensor in model.named_parameters():
        if name.endswith(".w"):
            decay = torch.sigmoid(twin.get_parameter(name))
            assert abs(float(decay - torch.sigmoid(tensor))) <= 0.5 / 4096 + 1e-12
            assert float(decay * 4096) == pytest.approx(round(float(decay * 4096)), abs=1e-9)
