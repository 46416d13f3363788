"""The zoo: against what the authors' own code computed (``tests/data/compare_zoo.py``), its parts, and recognition."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional
from torch import nn

from resformer.errors import FileFormatError, InputError, UnsupportedError
from resformer.models.checkpoint import load_checkpoint
from resformer.models.spikingresformer import VARIANTS, SpikingResformer
from resformer.models.zoo.checkpoint import build_zoo_model, load_zoo_checkpoint, save_zoo_checkpoint
from resformer.models.zoo.meta_spikeformer import MetaSpikeFormerArchitecture, rep_conv
from resformer.models.zoo.parts import Classifier, ResidualMLP, SpikeAttention
from resformer.models.zoo.qkformer import QKFormerArchitecture, QKTokenAttention
from resformer.models.zoo.recognise import FAMILIES, ZooArchitecture, build, family_of, heads, recognise
from resformer.models.zoo.sdt import SDSA, SDTArchitecture
from resformer.models.zoo.sdt_v3 import LevelNeuron
from resformer.models.zoo.sew_resnet import SEWBlock, SEWResNetArchitecture
from resformer.models.zoo.spikformer import SpikformerArchitecture
from resformer.models.zoo.spikingformer import SpikingformerArchitecture
from support import scripts

DATA = Path(__file__).parents[2] / "data"

recipe = scripts.load(DATA / "zoo_recipe.py", "zoo_recipe")
VECTORS: dict[str, dict[str, Any]] = json.loads((DATA / "zoo_vectors.json").read_text())
CASES = [pytest.param(case, id=f"{case.family}: {case.name}") for case in recipe.CASES]

UNTOLD: dict[str, dict[str, Any]] = {
    "spikformer": {"num_heads": 1},
    "spikingformer": {"num_heads": 1},
    "qkformer": {"num_heads": 1},
    "sew_resnet": {"connect": "ADD"},
    "meta_spikeformer": {"num_heads": 1},
    "maxformer": {"num_heads": 1},
    "sdt_v3": {"num_heads": 1},
}
"""Fields that no tensor tells, set to the same value on both sides; other tests compare them with the authors' code."""


@functools.cache
def network(case: Any) -> Classifier:
    return build(case.architecture, timesteps=case.timesteps).double().eval()


def empty(architecture: ZooArchitecture) -> dict[str, torch.Tensor]:
    """A state dict of names and shapes alone."""
    with torch.device("meta"):
        return build(architecture, timesteps=1).state_dict()


def spikes(*shape: int, seed: int = 0) -> torch.Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.3).double()


def randomized(module: nn.Module) -> nn.Module:
    module.double().eval().load_state_dict(recipe.weights(module.double().state_dict()))
    return module


def lif(x: torch.Tensor, threshold: float) -> torch.Tensor:
    """The neuron by its definition; x is (T, ...)."""
    v, fired = torch.zeros_like(x[0]), []
    for current in x:
        v = v + (current - v) / 2
        fired.append((v >= threshold).double())
        v = torch.where(v >= threshold, torch.zeros_like(v), v)
    return torch.stack(fired)


def test_every_case_is_recorded() -> None:
    assert set(VECTORS) == {f"{case.family}: {case.name}" for case in recipe.CASES}
    assert {case.family for case in recipe.CASES} == set(FAMILIES)


@pytest.mark.parametrize("case", CASES)
def test_tensors_spikes_and_logits_are_the_authors(case: Any) -> None:
    model = network(case)
    state = recipe.weights(model.state_dict())
    model.load_state_dict(state, strict=True)
    emitted = recipe.record(model)
    with torch.no_grad():
        found = recipe.vectors(state, emitted, model(recipe.network_input(case)))
    expected = VECTORS[f"{case.family}: {case.name}"]
    # the logits are sums of reals, whose order is the BLAS library's own
    assert found.pop("logits") == pytest.approx(expected["logits"], rel=1e-9, abs=1e-9)
    assert found == {name: value for name, value in expected.items() if name != "logits"}


@pytest.mark.parametrize("case", CASES)
def test_a_network_is_recognised_by_its_tensors(case: Any) -> None:
    found = recognise(network(case).state_dict())
    same = UNTOLD.get(case.family, {})
    assert found.family == case.family
    assert dataclasses.replace(found.architecture, **same) == dataclasses.replace(case.architecture, **same)
    # one sentence for each thing that no tensor tells, and for T and the image's edge
    assert len(found.assumptions) == len(FAMILIES[case.family].untold) + 2


@pytest.mark.parametrize(
    ("architecture", "untold"),
    [
        (
            SpikformerArchitecture(embed_dims=384, depth=4, num_heads=2),
            {"num_heads": 12, "pooling": "0011"},
        ),
        (
            SpikformerArchitecture(embed_dims=512, depth=8, num_heads=2, num_classes=1000, layout="imagenet"),
            {"num_heads": 8, "pooling": "1111"},
        ),
        (QKFormerArchitecture(embed_dims=384, depths=(1, 1, 2), num_heads=2), {"num_heads": 8}),
        (
            QKFormerArchitecture(embed_dims=768, depths=(1, 2, 7), num_heads=2, num_classes=1000, layout="imagenet"),
            {"num_heads": 12},
        ),
        (SDTArchitecture(embed_dims=512, depth=8, num_heads=8, num_classes=1000), {"pooling": "1111"}),
        (SEWResNetArchitecture(block="basic", depths=(2, 2, 2, 2), connect="AND"), {"connect": "ADD"}),
        (MetaSpikeFormerArchitecture(embed_dims=(128, 256, 512, 640), num_heads=2), {"num_heads": 8}),
    ],
)
def test_what_no_tensor_tells_is_as_the_authors_have_it(
    architecture: ZooArchitecture, untold: dict[str, object]
) -> None:
    found = recognise(empty(architecture))
    assert {name: getattr(found.architecture, name) for name in untold} == untold


def test_heads_divide_the_channels() -> None:
    assert [heads(12, channels) for channels in (384, 48, 32, 4)] == [12, 12, 8, 4]


def test_a_spiking_resformer_is_of_no_family_here() -> None:
    for name in ("ti", "cifar", "dvsg"):
        with torch.device("meta"):
            state = SpikingResformer(VARIANTS[name], timesteps=1, image_size=32).state_dict()
        assert family_of(state) is None
        with pytest.raises(FileFormatError, match=r"prologue\.0\.weight.*tells a family"):
            recognise(state)


SMALL = SpikformerArchitecture(embed_dims=16, depth=2, num_heads=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("block.0.attn.q_bn.bias"), r"1 tensors are missing from a Spikformer's"),
        (lambda state: state.update(extra=torch.zeros(1)), r"1 tensors are no Spikformer's, such as extra"),
        (lambda state: state.update({"head.bias": torch.zeros(3)}), r"head\.bias has shape \(3,\)"),
        (lambda state: state.update({"block.9999.x": torch.zeros(1)}), r"block\.2 has 0 tensors, where at least 12"),
        (
            lambda state: state.update({f"block.{i}.x": torch.zeros(1) for i in range(2, 9999)}),
            r"block\.2 has 1 tensors",
        ),
        (lambda state: state.update({"head.weight": torch.zeros(3)}), r"head\.weight has shape \(3,\), where 2 axes"),
    ],
)
def test_damaged_tensors_are_refused(change: Any, message: str) -> None:
    state = empty(SMALL)
    change(state)
    with pytest.raises(FileFormatError, match=message):
        recognise(state)


def test_hidden_channels_that_are_no_multiple_are_refused() -> None:
    state = empty(SMALL)
    state["block.0.mlp.fc1_linear.weight"] = torch.zeros(17, 16)
    with pytest.raises(UnsupportedError, match="17 hidden channels are no multiple of 16"):
        recognise(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SpikformerArchitecture(embed_dims=20, depth=1, num_heads=1),
            "embed_dims is 20: must be a multiple of 8",
        ),
        (lambda: SpikformerArchitecture(embed_dims=16, depth=1, num_heads=3), "16 channels cannot be split.*3 heads"),
        (lambda: SpikformerArchitecture(embed_dims=16, depth=0, num_heads=1), "depth is 0: must be at least 1"),
        (lambda: SDTArchitecture(embed_dims=16, depth=1, num_heads=1, pooling="012"), "pooling is '012'"),
        (lambda: QKFormerArchitecture(embed_dims=64, depths=(1, 1), num_heads=8), "has 3 stages"),
        (lambda: SEWResNetArchitecture(block="basic", depths=(1, 1, 1, 1), connect="OR"), "connect is 'OR'"),  # type: ignore[arg-type]
        (lambda: build(SMALL, timesteps=0), "timesteps is 0: must be at least 1"),
    ],
)
def test_contradictions_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        make()


def test_an_image_is_presented_at_each_step() -> None:
    model = randomized(build(SMALL, timesteps=3))
    image = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        logits = model(image)
        functional.reset_net(model)
        assert torch.equal(logits, model(image.repeat(3, 1, 1, 1, 1)))
    assert logits.shape == (2, 10)
    with pytest.raises(InputError, match=r"\(3, 16, 16\).*give \(N, C, H, W\)"):
        model(image[0])


def test_samples_of_a_qkformer_do_not_see_each_other() -> None:
    model = randomized(build(QKFormerArchitecture(embed_dims=64, depths=(1, 1, 1), num_heads=8), timesteps=2))
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        together = model(images)
        alone = []
        for image in images:
            functional.reset_net(model)
            alone.append(model(image[None]))
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)


def test_attention_of_counts() -> None:
    q, k, v = (spikes(2, 3, 6, 4, 5, seed=seed) for seed in range(3))
    found = SpikeAttention(num_heads=2, scale=0.125)(q, k, v)
    expected = torch.zeros_like(v).flatten(3)
    for head in range(2):
        channels = slice(3 * head, 3 * head + 3)
        queries, keys, values = (each.flatten(3)[:, :, channels] for each in (q, k, v))
        similar = torch.einsum("tnci,tncj->tnij", queries, keys)  # how many channels fire at both tokens
        expected[:, :, channels] = torch.einsum("tnij,tncj->tnci", similar, values) * 0.125
    assert torch.equal(found, expected.reshape(v.shape))


def test_q_decides_which_tokens_of_k_pass() -> None:
    attention = randomized(QKTokenAttention(6, num_heads=2))
    kept: dict[str, torch.Tensor] = {}
    for name in ("q_lif", "k_lif", "proj_conv"):
        getattr(attention, name).register_forward_hook(
            lambda _module, given, output, name=name: kept.__setitem__(
                name, given[0] if name == "proj_conv" else output
            )
        )
    with torch.no_grad():
        attention(torch.rand(4, 2, 6, 3, 3, dtype=torch.float64) * 3)
    q, k = kept["q_lif"], kept["k_lif"]
    assert q.any()
    assert k.any()
    for head in range(2):
        channels = slice(3 * head, 3 * head + 3)
        mask = lif(q[:, :, channels].sum(2, keepdim=True), 0.5)
        assert torch.equal(kept["proj_conv"][:, :, channels], mask * k[:, :, channels])


def test_a_channel_of_q_passes_where_its_k_and_v_fire_together() -> None:
    attention = randomized(SDSA(SDTArchitecture(embed_dims=8, depth=1, num_heads=2)))
    kept: dict[str, torch.Tensor] = {}
    for name in ("q_lif", "k_lif", "v_lif", "proj_conv"):
        getattr(attention, name).register_forward_hook(
            lambda _module, given, output, name=name: kept.__setitem__(
                name, given[0] if name == "proj_conv" else output
            )
        )
    with torch.no_grad():
        attention(torch.rand(4, 2, 8, 3, 3, dtype=torch.float64) * 3)
    mask = lif((kept["k_lif"] * kept["v_lif"]).sum((3, 4), keepdim=True), 0.5)
    assert 0 < mask.mean() < 1
    assert torch.equal(kept["proj_conv"], kept["q_lif"] * mask)


@pytest.mark.parametrize(
    ("connect", "join"),
    [
        ("ADD", lambda fired, given: fired + given),
        ("AND", lambda fired, given: torch.logical_and(fired, given).double()),
        ("IAND", lambda fired, given: torch.logical_and(fired == 0, given).double()),
    ],
)
def test_connections_of_sew_blocks(connect: Any, join: Any) -> None:
    block = randomized(SEWBlock("basic", 4, 4, stride=1, connect=connect))
    fired: list[torch.Tensor] = []
    block.sn2.register_forward_hook(lambda _module, _given, output: fired.append(output.clone()))
    given = spikes(3, 2, 4, 5, 5)
    with torch.no_grad():
        found = block(given)
    assert fired[0].any()
    assert torch.equal(found, join(fired[0], given))


def test_rep_conv_is_one_convolution_of_3x3() -> None:
    chain = randomized(rep_conv(4))
    first, norm, (depthwise, mixing, inner) = (chain[0].body[index] for index in range(3))
    x = spikes(1, 2, 4, 5, 6)

    def scale(bn: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        gain = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        return gain, bn.bias - bn.running_mean * gain

    gains, shifts = zip(*(scale(each) for each in (norm.bn, inner, chain[1])), strict=True)
    weight = torch.einsum(
        "om,mhw,m,mi->oihw", mixing.weight[..., 0, 0], depthwise.weight[:, 0], gains[0], first.weight[..., 0, 0]
    )
    bias = mixing.weight[..., 0, 0] @ (depthwise.weight.sum((1, 2, 3)) * shifts[0])
    for gain, shift in zip(gains[1:], shifts[1:], strict=True):
        weight, bias = weight * gain[:, None, None, None], bias * gain + shift
    with torch.no_grad():
        torch.testing.assert_close(chain(x)[0], F.conv2d(x[0], weight, bias, padding=1), rtol=1e-12, atol=1e-12)


def test_a_residual_mlp_adds_between_its_units_where_widths_allow() -> None:
    x = torch.rand(2, 1, 4, 3, 3, dtype=torch.float64)
    for hidden, between in ((4, True), (8, False)):
        mlp = randomized(ResidualMLP(4, hidden))
        with torch.no_grad():
            first = mlp.fc1_bn(mlp.fc1_conv(lif(x, 1.0)))
            stream = x + first if between else x
            second = mlp.fc2_bn(mlp.fc2_conv(lif(stream if between else first, 1.0)))
            assert torch.equal(mlp(x), second + stream)


def test_levels_round_half_to_even() -> None:
    x = torch.tensor([-1.0, 0.5, 0.51, 1.5, 2.5, 3.5, 9.0], dtype=torch.float64, requires_grad=True)
    levels = torch.tensor([0.0, 0.0, 1.0, 2.0, 2.0, 4.0, 4.0], dtype=torch.float64)
    for neuron in (LevelNeuron(4, norm=4).eval(), LevelNeuron(4, norm=4).train()):
        assert torch.equal(neuron(x), levels / 4)
    (gradient,) = torch.autograd.grad(LevelNeuron(4, norm=1).train()(x).sum(), x)
    assert gradient.tolist() == [0, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("case", [case for case in CASES if case.id in ("sdt: plif", "sdt_v3: scale of 12 channels")])
def test_networks_train(case: Any) -> None:
    model = build(case.architecture, timesteps=2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    model(torch.rand(2, case.architecture.in_channels, 32, 32)).square().sum().backward()
    named = dict(model.named_parameters())
    stem = next(name for name in named if name.endswith("conv.weight"))
    gradient = named[stem].grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.id in ("spikformer: cifar10", "sew_resnet: basic ADD", "qkformer: cifar100")],
)
def test_a_checkpoint_becomes_its_network(case: Any, prefix: str, tmp_path: Path) -> None:
    model = network(case)
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {prefix + name: tensor for name, tensor in model.state_dict().items()}, "epoch": 3}, path)
    checkpoint = load_zoo_checkpoint(path)
    assert checkpoint.recognition.family == case.family
    assert checkpoint.weights_key == "state_dict"
    told = {name: getattr(case.architecture, name) for name in FAMILIES[case.family].untold}
    built = build_zoo_model(checkpoint, timesteps=2, untold=told)
    assert built.architecture == case.architecture
    assert built.timesteps == 2
    for name, tensor in model.state_dict().items():
        assert torch.equal(built.state_dict()[name], tensor)
    with pytest.raises(UnsupportedError, match="in_channels: what no tensor of a"):
        build_zoo_model(checkpoint, untold={"in_channels": 1})
    with pytest.raises(UnsupportedError, match=r"model\.pth: this is no SpikingResformer but a"):
        load_checkpoint(path)


@pytest.mark.parametrize("case", CASES)
def test_a_saved_network_is_built_without_being_told_anything(case: Any, tmp_path: Path) -> None:
    model = build(case.architecture, timesteps=3)
    save_zoo_checkpoint(model, tmp_path / "model.pt", image_size=20)
    checkpoint = load_zoo_checkpoint(tmp_path / "model.pt")
    assert checkpoint.recognition.assumptions == ()
    assert checkpoint.recognition.image_size == 20
    built = build_zoo_model(checkpoint)
    assert (built.architecture, built.timesteps) == (case.architecture, 3)
    # an argument takes precedence over the file
    assert build_zoo_model(checkpoint, timesteps=2).timesteps == 2


RECORD = {"family": "spikformer", "timesteps": 2, "image_size": 16, "num_heads": 4, "pooling": "0101"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1], r"'resformer' is a value of type list: must be a mapping"),
        ({"family": "sdt"}, r"'resformer' says family sdt, but its tensors are those of spikformer"),
        ({"family": torch.zeros(2)}, r"'resformer' says family a value of type Tensor"),
        ({"num_heads": 3}, r"the entry num_heads, 3: 16 channels cannot be split evenly into 3 heads"),
        ({"num_heads": True}, r"the entry num_heads, True: num_heads is True: must be a whole number"),
        ({"num_heads": 2.0}, r"the entry num_heads, 2\.0: num_heads is 2\.0: must be a whole number"),
        ({"timesteps": 2**40}, r"timesteps is 1099511627776: must be from 1 to 65536"),
        ({"image_size": 0}, r"image_size is 0: must be from 1 to 65536"),
        ({"pooling": "1" * 1000}, r"must have at most 16 characters"),
        ({"pooling": "2222"}, r"pooling is '2222': must be a 0 or a 1 for each"),
        ({"embed_dims": 32}, r"the entry embed_dims, 32: embed_dims: what no tensor of a Spikformer tells is"),
        ({7: 8}, r"the entry 7, 8: 7: what no tensor of a Spikformer tells is"),
    ],
)
def test_records_that_are_not_the_networks_are_refused(record: object, message: str, tmp_path: Path) -> None:
    state, path = build(SMALL, timesteps=1).state_dict(), tmp_path / "model.pth"
    torch.save({"model": state, "resformer": RECORD}, path)
    assert build_zoo_model(load_zoo_checkpoint(path)).architecture.num_heads == 4
    torch.save({"model": state, "resformer": RECORD | record if isinstance(record, dict) else record}, path)
    with pytest.raises(FileFormatError, match=r"model\.pth: .*" + message):
        load_zoo_checkpoint(path)


def test_part_of_a_record_leaves_the_rest_to_the_authors(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    architecture = SpikingformerArchitecture(embed_dims=16, depth=1, num_heads=2)
    torch.save({"model": build(architecture, timesteps=1).state_dict(), "resformer": {"tau": 3}}, path)
    found = load_zoo_checkpoint(path).recognition
    assert found.architecture.tau == 3
    assert [each.partition(":")[0] for each in found.assumptions] == ["num heads", "pooling", "timesteps", "image size"]


def test_only_networks_and_sizes_that_are_read_again_are_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image_size is 0: must be from 1"):
        save_zoo_checkpoint(build(SMALL, timesteps=1), tmp_path / "model.pt", image_size=0)
    assert not list(tmp_path.iterdir())


def test_checkpoints_of_no_family_or_of_no_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(FileFormatError, match=r"model\.pth: none of 1 tensors' names"):
        load_zoo_checkpoint(path)
    state = build(SMALL, timesteps=1).state_dict()
    state["head.bias"][0] = float("nan")
    torch.save(state, path)
    with pytest.raises(FileFormatError, match=r"model\.pth: head\.bias holds 1 NaN"):
        load_zoo_checkpoint(path)
