"""Weights as people keep them: under which key, under which names, and the notes on the choice."""

import itertools
from pathlib import Path

import pytest
import torch

from resformer.errors import FileFormatError, UnsupportedError
from resformer.models.checkpoint import build_model, load_checkpoint, save_checkpoint
from resformer.models.layers import NeuronKind
from resformer.models.spikingresformer import Architecture, SpikingResformer
from resformer.models.weights import KEYS, TOP_LEVEL

StateDict = dict[str, torch.Tensor]


def network(neuron: NeuronKind = "LIF", **fields: object) -> SpikingResformer:
    torch.manual_seed(0)
    architecture = Architecture(
        planes=(4, 6),
        blocks=(("DSSA",), ("GWFFN",)),
        num_heads=(1, 1),
        patch_sizes=(1, 1),
        ffn_ratios=(1, 1),
        ffn_convs=(1, 1),
        group_sizes=(1, 1),
        num_classes=3,
        stem="conv3x3",
        neuron=neuron,
        **fields,  # type: ignore[arg-type]
    )
    return SpikingResformer(architecture, timesteps=1, image_size=8)


@pytest.fixture(name="state")
def fixture_state() -> StateDict:
    return dict(network().state_dict())


@pytest.fixture(name="path")
def fixture_path(tmp_path: Path) -> Path:
    return tmp_path / "m.pt"


def other(state: StateDict) -> StateDict:
    """Other weights under the same names."""
    return {name: tensor + 1 for name, tensor in state.items()}


def same(path: Path, state: StateDict, **options: str) -> bool:
    loaded = load_checkpoint(path, **options).state
    return loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)


# -- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*KEYS, "of_my_own"])
def test_weights_under_a_key(state: StateDict, path: Path, key: str) -> None:
    torch.save({"epoch": 3, key: state, "optimizer": {"state": {}}}, path)
    checkpoint = load_checkpoint(path)
    assert checkpoint.weights_key == key
    assert checkpoint.notes == (() if key == "model" else (f"weights: read from '{key}'",))
    assert same(path, state)


def test_weights_in_no_mapping(state: StateDict, path: Path) -> None:
    torch.save(state, path)
    assert load_checkpoint(path).weights_key == TOP_LEVEL
    assert load_checkpoint(path).notes == ()


def test_weights_in_two_mappings(state: StateDict, path: Path) -> None:
    torch.save({"ema": {"decay": 0.9, "module": state}}, path)
    assert load_checkpoint(path).weights_key == "ema.module"
    assert same(path, state)


def test_of_several_the_first_of_the_order_is_read_and_the_others_are_told(state: StateDict, path: Path) -> None:
    torch.save({"mine": other(state), "model_ema": other(state), "state_dict": state, "net": other(state)}, path)
    assert same(path, state)
    assert load_checkpoint(path).notes == (
        "weights: read from 'state_dict'; the file also holds net, model_ema, mine (choose by the weights key)",
    )


def test_weights_come_before_their_averages_and_the_usual_keys_in_this_order(state: StateDict, path: Path) -> None:
    order = [
        "model",
        "state_dict",
        "model_state_dict",
        "net",
        "network",
        "module",
        "state_dict_ema",
        "model_ema",
        "ema",
    ]
    for first, second in itertools.pairwise(order):
        torch.save({second: other(state), first: state}, path)
        assert load_checkpoint(path).weights_key == first


def test_another_key_can_be_chosen(state: StateDict, path: Path) -> None:
    torch.save({"model": other(state), "model_ema": state, "timesteps": 9}, path)
    assert same(path, state, weights_key="model_ema")
    assert load_checkpoint(path, weights_key="model_ema").notes == ()
    assert load_checkpoint(path, weights_key="model_ema").timesteps == 9


@pytest.mark.parametrize("key", ["ema", "", "optimizer", "model.prologue"])
def test_a_key_that_is_not_there_is_refused_with_those_that_are(state: StateDict, path: Path, key: str) -> None:
    torch.save({"model": state, "model_ema": state, "optimizer": {"state": {}}}, path)
    with pytest.raises(FileFormatError, match=f"under '{key}'; there are weights under: model, model_ema$"):
        load_checkpoint(path, weights_key=key)


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "module.module._orig_mod.",
        "model.",
        "model._orig_mod.module.",
        "module.net.model.",
    ],
)
@pytest.mark.parametrize("key", ["model", None])
def test_prefixes(state: StateDict, path: Path, prefix: str, key: str | None) -> None:
    named = {prefix + name: tensor for name, tensor in state.items()}
    torch.save(named if key is None else {key: named}, path)
    assert same(path, state)


def test_wrappers_inside_names(state: StateDict, path: Path) -> None:
    """A part of the network was compiled, or wrapped."""
    torch.save({name.replace("layers.0.", "layers._orig_mod.0.module."): x for name, x in state.items()}, path)
    assert same(path, state)


def test_a_name_that_is_there_twice_is_refused(state: StateDict, path: Path) -> None:
    torch.save(state | {"module.classifier.weight": state["classifier.weight"].clone()}, path)
    with pytest.raises(FileFormatError, match=r"classifier\.weight is there twice, as module\.classifier\.weight too"):
        load_checkpoint(path)


def test_counters_are_ignored_by_name_and_told(state: StateDict, path: Path) -> None:
    counters = {
        "n_averaged": torch.tensor(5),
        "total_ops": torch.zeros(1, dtype=torch.float64),
        "layers.0.0.W.total_ops": torch.zeros(1),
        "layers.0.0.W.total_params": torch.zeros(1),
    }
    torch.save({"module." + name: x for name, x in (state | counters).items()}, path)
    assert same(path, state)
    assert load_checkpoint(path).notes == ("ignored: 1 x n_averaged, 2 x total_ops, 1 x total_params",)


def test_a_swa_utils_average(state: StateDict, path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(network())
    torch.save({"model_ema": averaged.state_dict()}, path)
    assert same(path, state)
    assert "ignored: 1 x n_averaged" in load_checkpoint(path).notes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_told(state: StateDict, path: Path, dtype: torch.dtype) -> None:
    torch.save({name: x.to(dtype) if x.is_floating_point() else x for name, x in state.items()}, path)
    (note,) = load_checkpoint(path).notes
    floats = sum(x.is_floating_point() for x in state.values())
    assert note.startswith(f"warning: {floats} of {len(state)} tensors are {str(dtype).removeprefix('torch.')}; ")


# -- what no tensor tells --------------------------------------------------------------------------------------------


def test_assumptions(state: StateDict, path: Path) -> None:
    torch.save(state, path)
    checkpoint = load_checkpoint(path)
    expected = (
        "neurons: LIF with tau 2 (no tensor says so)",
        "stem: 3x3 convolution of stride 1 (no tensor says so)",
        "stem: no max-pool after the convolution (no tensor says so)",
        "timesteps: 4, as the authors train such a network (no tensor says so)",
        "image size: 32, as the authors train such a network (no tensor says so)",
    )
    assert checkpoint.assumptions == expected
    assert build_model(checkpoint).assumptions == expected
    assert build_model(checkpoint, timesteps=4, neuron="IF").assumptions == (*expected[1:3], expected[4])
    assert build_model(checkpoint, timesteps=2, image_size=8, stem_pool=True, stem_stride=2).assumptions == expected[:1]
    assert (
        build_model(checkpoint, neuron="LIF", timesteps=2, image_size=8, stem_pool=False, stem_stride=1).assumptions
        == ()
    )


def test_a_plif_is_told_by_its_tensors(path: Path) -> None:
    torch.save(network("PLIF").state_dict(), path)
    assert not any("neurons" in each for each in load_checkpoint(path).assumptions)


def test_a_saved_network_states_what_no_tensor_tells(path: Path) -> None:
    model = network("IF", stem_stride=2, stem_pool=True)
    model.feature_rounding = "floor"
    save_checkpoint(model, path)
    checkpoint = load_checkpoint(path)
    rebuilt = build_model(checkpoint)
    assert checkpoint.assumptions == rebuilt.assumptions == ()
    assert rebuilt.architecture.stem_layout == (3, 2, True)
    assert rebuilt.architecture.neuron == "IF"
    assert rebuilt.feature_rounding == "floor"
    assert build_model(checkpoint, neuron="LIF", feature_rounding="ceil").feature_rounding == "ceil"


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_variants_are_really_built(state: StateDict, path: Path, key: str) -> None:
    torch.save({key: state}, path)
    checkpoint = load_checkpoint(path)
    model = build_model(checkpoint, image_size=32, neuron="IF", stem_stride=2, stem_pool=True)
    names = {type(module).__name__ for module in model.modules()}
    assert "IFNode" in names
    assert "LIFNode" not in names
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    assert model.prologue(x[None]).shape == (1, 1, 4, 8, 8)
    assert build_model(checkpoint, image_size=32).prologue(x[None]).shape == (1, 1, 4, 32, 32)


def test_neurons_that_the_tensors_contradict(state: StateDict, path: Path) -> None:
    torch.save(state, path)
    with pytest.raises(UnsupportedError, match="neuron PLIF: the checkpoint holds no PLIF's parameter w"):
        build_model(load_checkpoint(path), neuron="PLIF")
    torch.save(network("PLIF").state_dict(), path)
    assert build_model(load_checkpoint(path), neuron="PLIF").architecture.neuron == "PLIF"
    for neuron in ("IF", "LIF"):
        with pytest.raises(UnsupportedError, match=rf"neuron {neuron}: the checkpoint holds layers\..*\.w, the param"):
            build_model(load_checkpoint(path), neuron=neuron)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (3, "'resformer' is 3: must be a mapping"),
        ({"neuron": "QIF"}, "the entry neuron of value QIF"),
        ({"neuron": ["IF"]}, "the entry neuron of value a value of type list"),
        ({"stem_stride": True}, "the entry stem_stride of value True"),
        ({"stem_stride": 0}, "the entry stem_stride of value 0"),
        ({"stem_stride": 4}, "stem_stride is 4: must be 1 to 3"),
        ({"stem_pool": 1}, "the entry stem_pool of value 1"),
        ({"feature_rounding": "up"}, "the entry feature_rounding of value up"),
        ({"tau": 3.0}, "the entry tau of value 3.0"),
        ({"neuron": "PLIF"}, "says PLIF neurons, but its tensors are those of LIF neurons"),
    ],
)
def test_settings_of_a_file_are_checked(state: StateDict, path: Path, settings: object, message: str) -> None:
    torch.save({"model": state, "resformer": settings}, path)
    with pytest.raises((FileFormatError, UnsupportedError), match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
