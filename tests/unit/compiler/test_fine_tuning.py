"""Quantization-aware fine-tuning: what is trained is, integer by integer, what is compiled."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from spikingjelly.activation_based import functional, neuron

import resformer.quantize
from resformer.compiler.export.checkpoint import TIE_SHIFT, quantized_state, tensor_rows
from resformer.compiler.fine_tuning import FakeQuantization, QuantizedSpikingResformer, prepare
from resformer.compiler.ir import fixedpoint, reference
from resformer.compiler.ir.ops import LIF, Conv2d, Dense
from resformer.compiler.pipeline import CompileOptions, compile_checkpoint
from resformer.compiler.quantize.choose import QuantizationConfig
from resformer.errors import FileFormatError, InputError, RangeError, ResformerError
from resformer.models.checkpoint import build_model, load_checkpoint, save_checkpoint
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.run.encode import encode, real_logits

MakeModel = Callable[..., SpikingResformer]


def samples(model: SpikingResformer, count: int = 4) -> torch.Tensor:
    steps = (model.timesteps,) if model.architecture.neuron == "PLIF" else ()
    shape = (count, *steps, model.architecture.in_channels, model.image_size, model.image_size)
    rng = np.random.default_rng(11)
    values = np.floor(3 * rng.random(shape)) if steps else rng.random(shape)
    return torch.from_numpy(values)


def train(model: QuantizedSpikingResformer, steps: int = 3, rate: float = 2e-2) -> None:
    """Move all parameters by a few training steps."""
    images = samples(model).to(next(model.parameters()).dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for step in range(steps):
        loss = torch.nn.functional.cross_entropy(model(images).mean(0), torch.arange(len(images)) % 5 + 0 * step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(model)


def spikes_of(model: SpikingResformer, images: torch.Tensor) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits (T, N, classes) and each population's spikes, (T, N, ...)."""
    spikes: dict[str, np.ndarray] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: spikes.update({name: out.detach().numpy() == 1}))
        for name, module in model.named_modules()
        if isinstance(module, neuron.BaseNode)
    ]
    with torch.no_grad():
        logits = model(images).numpy()
    functional.reset_net(model)
    for hook in hooks:
        hook.remove()
    return logits, spikes


@pytest.fixture(params=[(12, "conv3x3"), (8, "imagenet"), (4, "conv3x3"), (3, "imagenet"), (2, "conv3x3")], ids=str)
def trained(request: pytest.FixtureRequest, make_model: MakeModel) -> QuantizedSpikingResformer:
    bits, stem = request.param
    model = make_model(seed=bits, stem=stem).float()
    student = prepare(model, bits=bits, calibration=samples(model))
    train(student)
    return student


def test_the_compiler_makes_the_trained_modules_integers(trained: QuantizedSpikingResformer, tmp_path: Path) -> None:
    trained.save(tmp_path / "trained.pt")
    compilation = compile_checkpoint(tmp_path / "trained.pt")
    program, plan = compilation.quantized, trained.plan
    assert compilation.plan == plan
    exact = copy.deepcopy(trained).double()
    found = tensor_rows(program)
    assert set(found) == set(plan.layers)
    for name, place in found.items():
        node, layer = program[name], plan.layers[name]
        assert isinstance(node.op, Conv2d | Dense)
        owner, _, parameter = place.weight.rpartition(".")
        used = getattr(exact.get_submodule(owner), parameter).detach().numpy()[place.rows]
        units = used * 2.0 ** plan.weight_unit_exp(node)
        assert_array_equal(units, fixedpoint.scale_weight(node.op.weight, node.op.weight_exp), strict=False)
        assert_array_equal(np.atleast_1d(node.op.weight_exp), layer.weight_exp)
        assert np.abs(node.op.weight).max() <= layer.mantissa_max
        if place.bias is not None:
            owner, _, parameter = place.bias.rpartition(".")
            bias = getattr(exact.get_submodule(owner), parameter).detach().numpy()[place.rows]
            assert_array_equal((bias + TIE_SHIFT) * 2.0 ** plan.scale_exps[name], node.op.bias, strict=False)
    for node in program:
        assert node.op.signal.scale_exp == plan.scale_exps.get(node.name, node.op.signal.scale_exp)
        if isinstance(node.op, LIF):
            assert node.op.vth == 2 * 2 ** plan.scale_exps[node.inputs[0]]
    signal = program.input.op.signal
    assert (-signal.low, signal.high) == (plan.input_high, plan.input_high)


def test_nothing_is_lost_between_the_trained_module_and_the_build(
    trained: QuantizedSpikingResformer, tmp_path: Path
) -> None:
    """The checkpoint is, bit for bit, the quantized one that the compiler writes."""
    trained.save(tmp_path / "trained.pt")
    checkpoint = load_checkpoint(tmp_path / "trained.pt")
    written = quantized_state(compile_checkpoint(tmp_path / "trained.pt").quantized)
    assert written.keys() == checkpoint.state.keys()
    for name, tensor in written.items():
        assert torch.equal(tensor, checkpoint.state[name].to(tensor.dtype)), name
    assert (checkpoint.timesteps, checkpoint.image_size) == (trained.timesteps, trained.image_size)


def test_the_trained_module_fires_the_programs_spikes(trained: QuantizedSpikingResformer, tmp_path: Path) -> None:
    images = samples(trained)
    trained.save(tmp_path / "trained.pt")
    program = compile_checkpoint(tmp_path / "trained.pt").program
    assert program.is_dyadic
    trace = reference.run(program, encode(images.numpy(), program).values, record=True)
    assert not any(trace.saturated.values()), "saturation is not what this test is about"
    logits, spikes = spikes_of(trained.double().eval(), images)
    assert spikes.keys() == trace.spikes.keys()
    assert sum(0 < train.count < train.size for train in trace.spikes.values()) >= 10
    for name, train in trace.spikes.items():
        assert_array_equal(train.dense(), spikes[name].reshape(train.shape), err_msg=name)
    np.testing.assert_allclose(logits, real_logits(trace.logits, program), rtol=0, atol=1e-6)


def test_training_moves_the_integers_but_neither_rates_nor_scales(make_model: MakeModel) -> None:
    model = make_model()
    student = prepare(model, bits=4, calibration=samples(model))
    before = dict(student.export().state_dict())
    rates = {name: tensor.clone() for name, tensor in student.named_buffers() if ".firing_rate_" in name}
    assert len(rates) == 4
    train(student)
    assert all(torch.equal(student.get_buffer(name), rate) for name, rate in rates.items())
    after = dict(student.export().state_dict())
    for name, tensor in after.items():
        trained_tensor = (name.endswith(".weight") and ".bn." not in name) or name.endswith(".bn.bias")
        assert torch.equal(tensor, before[name]) != trained_tensor, name


def test_every_parameter_is_trained_and_clipped_weights_are_not(make_model: MakeModel) -> None:
    student = prepare(make_model(), bits=2)
    student(samples(student)).mean(0).logsumexp(1).sum().backward()
    gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
    convolutions = len(student.plan.layers) - 1 - 2  # without the classifier; y1 and y2 share their tensors, twice
    assert len(gradients) == 2 * convolutions + 1
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values())
    rounding = FakeQuantization(np.full(4, 0.5), np.full(4, 3.0), shift=0.25)
    value = torch.tensor([0.6, 0.75, -1.4, 1.8], dtype=torch.float64, requires_grad=True)
    result = rounding(value)
    result.sum().backward()
    assert result.tolist() == [0.25, 0.75, -1.75, 1.25]  # 0.75 is a tie of 1 and 2 steps, and 2 is even
    assert value.grad is not None
    assert value.grad.tolist() == [1, 1, 1, 0]


def test_the_networks_modes(make_model: MakeModel) -> None:
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    student = prepare(model)
    assert student.training
    images = samples(model)
    logits = {mode: spikes_of(student.train(mode), images)[0] for mode in (True, False)}
    assert_array_equal(logits[True], logits[False], strict=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    # a network of one type becomes one of the same type, and comes back from float32 without loss
    assert next(student.parameters()).dtype == torch.float64
    single = prepare(model.float())
    assert next(single.parameters()).dtype == torch.float32
    assert_array_equal(spikes_of(single.double(), images)[0], spikes_of(single.float().double(), images)[0])
    for name, rate in single.double().named_buffers():
        if ".firing_rate_x" in name:
            assert (rate * single.get_submodule(name.rpartition(".")[0]).channels).unique().numel() == 1


def test_attention_is_exact_where_no_power_of_two_divides_it(make_model: MakeModel) -> None:
    """With 49 patches: 1/49 rounded to float32 is not 1/49 in float64."""
    model = make_model(patch_sizes=(1, 1), image_size=28).float()
    student = prepare(model).double().eval()
    for name, rate in student.named_buffers():
        if ".firing_rate_attn" in name:
            patches = student.get_submodule(name.rpartition(".")[0]).num_patches
            assert torch.all(rate * patches == 1), name
    images = samples(model)
    encoded = torch.round(images * 2.0 ** student.plan.scale_exps["input"]) / 2.0 ** student.plan.scale_exps["input"]
    assert_array_equal(spikes_of(student, images)[0], spikes_of(student.export(), encoded)[0])


def test_what_is_exported_loads_and_computes_anywhere(trained: QuantizedSpikingResformer, tmp_path: Path) -> None:
    trained.save(tmp_path / "trained.pt")
    content = torch.load(tmp_path / "trained.pt", weights_only=True)
    plain = SpikingResformer(trained.architecture, timesteps=trained.timesteps, image_size=trained.image_size)
    plain.double().load_state_dict(content["model"], strict=True)
    weights = [name for name in content["model"] if name.endswith(".weight")]
    assert {content["model"][name].dtype for name in weights} == {torch.float16}
    assert content["model"]["prologue.1.bn.bias"].dtype == torch.float64
    unit = 2.0 ** -trained.plan.scale_exps["input"]
    images = samples(trained)
    logits, _ = spikes_of(trained.double().eval(), images)
    assert_array_equal(logits, spikes_of(plain.eval(), torch.round(images / unit) * unit)[0])


def test_exponents_leave_the_least_error(make_model: MakeModel) -> None:
    """Three levels keep most of a normal distribution if they clip many values."""
    model = make_model(seed=1)
    plan = prepare(model, bits=2).plan
    student = prepare(model, plan=plan)
    assert student.plan is plan
    state, exact = model.state_dict(), student.export().state_dict()
    norm = state["layers.0.1.up.2.bn.weight"] / torch.sqrt(state["layers.0.1.up.2.bn.running_var"] + 1e-5)
    weight = state["layers.0.1.up.1.weight"] * norm[:, None, None, None]
    error = ((exact["layers.0.1.up.1.weight"] - weight) ** 2).sum((1, 2, 3))
    for shift in (-1, 1):
        layer = plan.layers["layers.0.1.up.1"]
        moved = replace(layer, weight_exp=tuple(min(max(exp + shift, 0), 7) for exp in layer.weight_exp))
        other = prepare(model, plan=replace(plan, layers={**plan.layers, "layers.0.1.up.1": moved})).export()
        worse = ((other.state_dict()["layers.0.1.up.1.weight"] - weight) ** 2).sum((1, 2, 3))
        assert (error <= worse).all()
        assert (error < worse).any()


def test_a_compilations_plan_is_trained_on_with_each_layers_own_width(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model()
    save_checkpoint(model, tmp_path / "model.pt")
    images = samples(model).numpy()
    plan = compile_checkpoint(
        tmp_path / "model.pt", CompileOptions(calibration=images, synapse_budget=0.7, image_size=16)
    ).plan
    assert len({layer.bits for layer in plan.layers.values()}) > 1
    student = prepare(model, plan=plan)
    train(student)
    student.save(tmp_path / "trained.pt")
    compilation = compile_checkpoint(tmp_path / "trained.pt")
    assert compilation.plan == plan
    for name, layer in plan.layers.items():
        op = compilation.quantized[name].op
        assert isinstance(op, Conv2d | Dense)
        assert np.abs(op.weight).max() <= 2 ** (layer.bits - 1) - 1


def test_what_no_tensor_tells_is_kept(make_model: MakeModel, tmp_path: Path) -> None:
    """IF neurons, a stem of another stride, and attention that counts the patches of sizes rounded down."""
    fields = {"neuron": "IF", "stem": "conv3x3", "patch_sizes": (1, 1)}
    save_checkpoint(make_model(image_size=15, **fields), tmp_path / "model.pt")
    model = build_model(load_checkpoint(tmp_path / "model.pt"), feature_rounding="floor")
    student = prepare(model, calibration=samples(model))
    train(student)
    assert student.feature_rounding == student.export().feature_rounding == "floor"
    student.save(tmp_path / "trained.pt")

    checkpoint = load_checkpoint(tmp_path / "trained.pt")
    again = build_model(checkpoint)
    assert (again.architecture, again.feature_rounding, again.assumptions) == (model.architecture, "floor", ())
    rates = [tensor for name, tensor in student.export().state_dict().items() if name == "layers.1.1.firing_rate_attn"]
    assert [(rate * 49 == 1).all() for rate in rates] == [True], "8 x 8 patches are there, 7 x 7 are counted"
    compilation = compile_checkpoint(tmp_path / "trained.pt")
    images = samples(model)
    encoded = encode(images.numpy(), compilation.program)
    rounded = torch.from_numpy(encoded.values * 2.0**-compilation.program.input.op.signal.scale_exp)
    _, spikes = spikes_of(again, rounded)
    trace = reference.run(compilation.program, encoded.values, record=True)
    for name, train_of in trace.spikes.items():
        assert_array_equal(train_of.dense(), spikes[name], err_msg=name)


def test_networks_of_plif_train_their_decays_too(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(neuron="PLIF", stem="conv3x3", timesteps=3)
    student = prepare(model, calibration=samples(model).numpy())
    train(student)
    student.save(tmp_path / "trained.pt")
    compilation = compile_checkpoint(tmp_path / "trained.pt")
    assert compilation.program.metadata["input"] == "frames"
    state = load_checkpoint(tmp_path / "trained.pt").state
    for name, parameter in student.named_parameters():
        if name.endswith(".w"):
            assert torch.equal(state[name], parameter.detach().to(state[name].dtype))
            lif = compilation.program[name.removesuffix(".w")].op
            assert isinstance(lif, LIF)
            assert lif.dv == round(4096 * float(torch.sigmoid(parameter)))
            assert not torch.equal(parameter, model.get_parameter(name))


@pytest.mark.parametrize("bits", [2, 4])
def test_it_begins_from_what_calibration_finds(make_model: MakeModel, tmp_path: Path, bits: int) -> None:
    model = make_model()
    images = samples(model, 8).numpy()
    save_checkpoint(model, tmp_path / "model.pt")
    options = CompileOptions(quantization=QuantizationConfig(bits), calibration=images, image_size=16)
    wanted = compile_checkpoint(tmp_path / "model.pt", options)
    student = prepare(model, bits=bits, calibration=images, calibrated=True)
    assert student.plan == wanted.plan
    student.save(tmp_path / "begun.pt")
    begun = compile_checkpoint(tmp_path / "begun.pt")
    nearest = prepare(model, plan=wanted.plan)
    differing = 0
    for name, place in tensor_rows(begun.quantized).items():
        found, calibrated = begun.quantized[name].op, wanted.quantized[name].op
        assert isinstance(found, Conv2d | Dense)
        assert isinstance(calibrated, Conv2d | Dense)
        assert_array_equal(found.weight, calibrated.weight, err_msg=name)
        assert_array_equal(found.bias, calibrated.bias, err_msg=name)
        owner, _, parameter = place.weight.rpartition(".")
        rounded = getattr(nearest.get_submodule(owner), parameter).detach().numpy()[place.rows]
        differing += int(
            (rounded * 2.0 ** wanted.plan.weight_unit_exp(begun.quantized[name]) != calibrated.weight).sum()
        )
    assert differing, "so that this says something"


def test_weights_move_no_further_than_to_round_as_calibration_does(make_model: MakeModel) -> None:
    model = make_model()
    images = samples(model, 8)
    plan = prepare(model, bits=4, calibration=images, calibrated=True).plan
    moved, nearest = prepare(model, bits=4, calibration=images, calibrated=True), prepare(model, plan=plan)
    name = "layers.1.0.conv"
    latent, kept = (each.get_submodule(name).parametrizations.weight.original for each in (moved, nearest))
    used, rounded = (each.get_submodule(name).weight for each in (moved, nearest))
    rule = moved.get_submodule(name).parametrizations.weight[0]
    same = used == rounded
    assert 0.3 < float(same.double().mean()) < 1
    multiples = kept / rule.unit
    stay = same & (multiples.abs() <= rule.limit) & ((multiples - multiples.round()).abs() < 0.49)
    assert float(stay.double().mean()) > 0.3
    assert torch.equal(latent[stay], kept[stay])
    # the others lie just inside the interval that rounds to the wanted multiple, on the side that they come from
    beside = (latent - used) / rule.unit
    torch.testing.assert_close(beside[~same].abs(), torch.full_like(beside[~same], 0.49))
    assert torch.equal(beside[~same].sign(), (kept - used)[~same].sign())


def test_autocast_and_data_parallel_train_the_integers_that_are_saved(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model().float()
    student = prepare(model, bits=4, calibration=samples(model), calibrated=True)
    before = {name: tensor.clone() for name, tensor in student.export_tensors()}
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/rendezvous", world_size=1, rank=0)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(student)
        optimizer = torch.optim.Adam(student.parameters(), lr=2e-2)
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                logits = parallel(samples(model).float()).mean(0)
            torch.nn.functional.cross_entropy(logits.float(), torch.arange(4)).backward()
            optimizer.step()
            optimizer.zero_grad()
            functional.reset_net(student)
    finally:
        torch.distributed.destroy_process_group()
    assert any(not torch.equal(before[name], tensor) for name, tensor in student.export_tensors())
    test_nothing_is_lost_between_the_trained_module_and_the_build(student, tmp_path)
    test_the_trained_module_fires_the_programs_spikes(student, tmp_path)


# What is refused


@pytest.mark.parametrize("bits", [1, 16, 4.5, "4", True])
def test_widths_that_no_synapse_has(make_model: MakeModel, bits: Any) -> None:
    with pytest.raises(RangeError, match=rf"^weight bits: {bits!r} is .* 2 to 15"):
        prepare(make_model(), bits=bits)


def test_only_a_float_network_of_ours_is_prepared(make_model: MakeModel) -> None:
    with pytest.raises(InputError, match="model: is a Linear; give a SpikingResformer of float weights"):
        prepare(torch.nn.Linear(3, 2))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="model: is a QuantizedSpikingResformer"):
        prepare(prepare(make_model()))


def test_a_checkpoint_that_cannot_be_saved(make_model: MakeModel, tmp_path: Path) -> None:
    student = prepare(make_model())
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"file/none/x\.pt"):
        student.save(tmp_path / "file" / "none" / "x.pt")
    if (full := Path("/dev/full")).is_char_device():
        with pytest.raises(OSError, match="/dev/full"):
            student.save(full)
        assert full.is_char_device()


def test_samples_and_plans_that_do_not_fit(make_model: MakeModel) -> None:
    model = make_model()
    with pytest.raises(InputError, match="calibration: the shape is"):
        prepare(model, calibration=torch.zeros(1, 3, 16, 16))
    plan = prepare(model).plan
    with pytest.raises(InputError, match="give the plan alone"):
        prepare(model, plan=plan, bits=8)
    with pytest.raises(InputError, match="give the plan alone"):
        prepare(model, plan=plan, calibrated=True)
    with pytest.raises(InputError, match="nothing to calibrate on; give samples"):
        prepare(model, calibrated=True)
    with pytest.raises(FileFormatError, match="made for another network"):
        prepare(make_model(ffn_convs=(1, 1)), plan=plan)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantization": QuantizationConfig(weight_bits=4)}, "leave out --weight-bits"),
        ({"quantization": QuantizationConfig(weight_bits=8)}, "leave out --weight-bits"),
        ({"calibration": np.zeros((1, 2, 16, 16))}, "leave out --weight-bits, --calibration"),
        ({"synapse_budget": 0.7}, "leave out --weight-bits"),
        ({"image_size": 32}, "leave out --input-size"),
    ],
)
def test_options_that_contradict_the_plan(
    make_model: MakeModel, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    path = tmp_path / "trained.pt"
    prepare(make_model()).save(path)
    with pytest.raises(InputError, match=f"{path}: was fine-tuned for.* {words}"):
        compile_checkpoint(path, CompileOptions(**options))
    assert compile_checkpoint(path, CompileOptions(image_size=16, timesteps=2)).program.timesteps == 2


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"neuron": "IF"}, "--neuron"),
        ({"stem_stride": 1}, "--stem-stride"),
        ({"stem_pool": False}, "--stem-pool"),
        ({"input_kind": "frames"}, "--input-kind"),
    ],
)
def test_a_fine_tuned_network_is_what_its_file_says(
    make_model: MakeModel, tmp_path: Path, options: dict[str, Any], flag: str
) -> None:
    path = tmp_path / "trained.pt"
    prepare(make_model()).save(path)
    with pytest.raises(InputError, match=f"{path}: was fine-tuned as another network than {flag} says; leave that out"):
        compile_checkpoint(path, CompileOptions(**options))
    assert compile_checkpoint(path, CompileOptions(neuron="LIF", stem_stride=2, stem_pool=True)).program.timesteps == 4


def change(plan: dict[str, Any], *keys: Any, to: Any) -> dict[str, Any]:
    *path, last = keys
    inner = plan
    for key in path:
        inner = inner[key]
    inner[last] = to
    return plan


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda _plan: "", "damaged"),
        (lambda _plan: "[" * 100_000, "damaged"),
        (lambda _plan: "[]", "format version None"),
        (lambda plan: json.dumps({**plan, "format_version": 99}), "format version 99"),
        (lambda plan: json.dumps(change(plan, "scale_exps", to=[])), "damaged"),
        (lambda plan: json.dumps(change(plan, "scale_exps", "input", to=10**400)), "input: .*the scale"),
        (lambda plan: json.dumps(change(plan, "scale_exps", "input", to=3.5)), "damaged"),
        (lambda plan: json.dumps(change(plan, "scale_exps", "layers.0.0.add", to=2)), "layers.0.0.add: .*2\\^2"),
        (lambda plan: json.dumps(change(plan, "scale_exps", "layers.0.0.activation_in", to=1)), "activation_in"),
        (lambda plan: json.dumps(change(plan, "scale_exps", "layers.0.1.up.1", to=40)), "layers.0.1.up.1: .*2\\^40"),
        (lambda plan: json.dumps(change(plan, "input_high", to=0)), "input: .*largest integer 0"),
        (lambda plan: json.dumps(change(plan, "layers", "classifier", "bits", to=12)), "classifier: .*12 bits"),
        (lambda plan: json.dumps(change(plan, "layers", "classifier", "weight_exp", to=[8])), "exponent 8"),
        (lambda plan: json.dumps(change(plan, "layers", "classifier", "weight_exp", to=[True])), "damaged"),
        (lambda plan: json.dumps(change(plan, "layers", "classifier", "weight_exp", to=[1, 1])), "2 exponents for 1"),
        (lambda plan: json.dumps(change(plan, "layers", "more", to={"bits": 8, "weight_exp": [0]})), "more: a layer"),
        (lambda _plan: 7, "'quantization' is a int"),
        (lambda _plan: {"a": [torch.zeros(1)]}, "'quantization' is a dict"),
    ],
)
def test_damaged_plans_in_a_checkpoint(
    make_model: MakeModel, tmp_path: Path, damage: Callable[[dict[str, Any]], Any], words: str
) -> None:
    path = tmp_path / "trained.pt"
    prepare(make_model()).save(path)
    content = torch.load(path, weights_only=True)
    content["quantization"] = damage(json.loads(content["quantization"]))
    torch.save(content, path)
    with pytest.raises(FileFormatError, match=rf"^{path}: .*{words}"):
        compile_checkpoint(path)


def test_a_checkpoint_without_a_plan_has_none(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model()
    save_checkpoint(model, tmp_path / "model.pt")
    checkpoint = load_checkpoint(tmp_path / "model.pt")
    assert checkpoint.quantization is None
    prepare(build_model(checkpoint)).save(tmp_path / "trained.pt")
    assert load_checkpoint(tmp_path / "trained.pt").quantization is not None
    assert issubclass(FileFormatError, ResformerError)


def test_it_is_reached_by_its_public_name() -> None:
    assert resformer.quantize.prepare is prepare
    code = "import resformer, sys; assert 'resformer.quantize' not in sys.modules; print(resformer.quantize.prepare)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "prepare" in done.stdout
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = resformer.nothing_of_this_name
