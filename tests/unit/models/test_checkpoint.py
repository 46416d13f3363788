"""Reading and writing checkpoints: every layout that we accept, and every way in which a file can be wrong."""

import dataclasses
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from spikingjelly.activation_based import functional

from resformer.errors import FileFormatError, UnsupportedError
from resformer.models.checkpoint import (
    build_model,
    check_rates,
    default_image_size,
    default_timesteps,
    infer_architecture,
    load_checkpoint,
    save_checkpoint,
)
from resformer.models.spikingresformer import (
    VARIANTS,
    Architecture,
    SpikingResformer,
    smallest_image_size,
)

StateDict = dict[str, torch.Tensor]

SMALL = Architecture(
    planes=(8, 16),
    blocks=(("DSSA", "GWFFN"), ("GWFFN", "DSSA")),
    num_heads=(1, 2),
    patch_sizes=(2, 1),
    ffn_ratios=(4, 2),
    ffn_convs=(1, 2),
    group_sizes=(8, 4),
    in_channels=1,
    num_classes=5,
    stem="conv3x3",
)
ARCHITECTURES = {
    **VARIANTS,
    "small": SMALL,
    "no attention in stage 0": dataclasses.replace(
        SMALL, blocks=(("GWFFN",), ("GWFFN", "DSSA")), num_heads=(1, 2), patch_sizes=(1, 1)
    ),
    "no feed-forward, PLIF": dataclasses.replace(
        SMALL,
        blocks=(("DSSA",), ("DSSA",)),
        ffn_ratios=(1, 1),
        ffn_convs=(1, 1),
        group_sizes=(1, 1),
        neuron="PLIF",
    ),
    "one stage": Architecture(
        planes=(8,),
        blocks=(("DSSA", "DSSA", "GWFFN"),),
        num_heads=(4,),
        patch_sizes=(3,),
        ffn_ratios=(1,),
        ffn_convs=(3,),
        group_sizes=(2,),
    ),
}


@pytest.fixture(name="state")
def fixture_state() -> StateDict:
    torch.manual_seed(0)
    state = SpikingResformer(SMALL, timesteps=4, image_size=8).state_dict()
    for name, tensor in state.items():
        if "firing_rate" in name:
            tensor.fill_(0.25)
    return dict(state)


@pytest.fixture(name="path")
def fixture_path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def refusal(path: Path, error: type[Exception] = FileFormatError) -> str:
    """Load what must be refused, and return the message: one line that begins with the path."""
    with pytest.raises(error) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert type(caught.value) is error
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


# -- layouts ---------------------------------------------------------------------------------------------------------


def save_authors(state: StateDict, path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    torch.save({"model": state, "optimizer": optimizer.state_dict(), "epoch": 319, "max_acc1": 74.34}, path)


LAYOUTS: dict[str, tuple[Callable[[StateDict, Path], None], str]] = {
    "authors": (save_authors, "authors"),
    "model only": (lambda state, path: torch.save({"model": state}, path), "authors"),
    "state dict": (torch.save, "state dict"),
    "distributed": (lambda s, path: torch.save({"module." + name: x for name, x in s.items()}, path), "state dict"),
    "authors, distributed": (
        lambda s, path: torch.save({"model": {"module." + name: x for name, x in s.items()}}, path),
        "authors",
    ),
    "not zipped": (lambda s, path: torch.save(s, path, _use_new_zipfile_serialization=False), "state dict"),
    "safetensors": (save_file, "safetensors"),
    "half precision": (lambda s, path: torch.save({n: _half(x) for n, x in s.items()}, path), "state dict"),
}


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ""])
def test_every_layout_loads_whatever_the_file_is_called(
    state: StateDict, tmp_path: Path, layout: str, suffix: str
) -> None:
    save, source_format = LAYOUTS[layout]
    path = tmp_path / f"model{suffix}"
    save(state, path)
    checkpoint = load_checkpoint(str(path))
    assert checkpoint.path == path
    assert checkpoint.source_format == source_format
    assert checkpoint.architecture == SMALL
    assert checkpoint.state.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(checkpoint.state[name], _half(tensor) if layout == "half precision" else tensor)


def test_batch_counters_may_be_missing(state: StateDict, path: Path) -> None:
    torch.save({name: tensor for name, tensor in state.items() if "num_batches" not in name}, path)
    assert load_checkpoint(path).state.keys() == state.keys()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_tensors_tell_the_architecture(name: str) -> None:
    architecture = ARCHITECTURES[name]
    with torch.device("meta"):
        model = SpikingResformer(architecture, timesteps=1, image_size=smallest_image_size(architecture))
    assert infer_architecture(model.state_dict()) == architecture


def test_saved_and_loaded_the_network_computes_the_same(state: StateDict, path: Path) -> None:
    model = SpikingResformer(SMALL, timesteps=3, image_size=8).double()
    model.load_state_dict(state)
    save_checkpoint(model.eval(), path)
    rebuilt = build_model(load_checkpoint(path))
    assert not rebuilt.training
    assert (rebuilt.timesteps, rebuilt.image_size) == (3, 8)
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    assert torch.equal(rebuilt(x), model(x))
    assert torch.load(path, weights_only=True)["model"].keys() == state.keys()


@pytest.mark.parametrize(("key", "inside"), [("model_ema", False), ("ema.module", False), ("trainer.model", True)])
def test_settings_lie_beside_all_that_leads_to_the_weights(path: Path, key: str, inside: bool) -> None:
    """They may lie at the file's top level, or in the mapping that holds the weights."""
    model = SpikingResformer(dataclasses.replace(SMALL, neuron="IF"), timesteps=3, image_size=8)
    save_checkpoint(model, path)
    content = torch.load(path, weights_only=True)
    outer, _, last = key.rpartition(".")
    nested = {last: content.pop("model"), **(content if inside else {})}
    torch.save({"epoch": 1, **({outer: nested} if outer else nested), **({} if inside else content)}, path)
    for chosen in (None, key):
        read = load_checkpoint(path, weights_key=chosen)
        assert (read.weights_key, read.timesteps, read.image_size, read.architecture.neuron) == (key, 3, 8, "IF")


@pytest.mark.parametrize(
    ("name", "value"), [("timesteps", 0), ("image_size", -8), ("timesteps", "4"), ("image_size", 2.5)]
)
def test_a_note_that_is_no_positive_integer_is_refused(state: StateDict, path: Path, name: str, value: object) -> None:
    torch.save({"model": state, name: value}, path)
    with pytest.raises(FileFormatError, match=f"'{name}' is {value!r}: must be a positive integer"):
        load_checkpoint(path)


def test_the_network_does_not_share_the_checkpoints_tensors(state: StateDict, path: Path) -> None:
    torch.save(state, path)
    checkpoint = load_checkpoint(path)
    model = build_model(checkpoint, image_size=8, dtype=torch.float32)
    with torch.no_grad():
        model.classifier.weight.zero_()
    assert torch.equal(checkpoint.state["classifier.weight"], state["classifier.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_has_the_type_asked_for(state: StateDict, path: Path, dtype: torch.dtype) -> None:
    torch.save(state, path)
    model = build_model(load_checkpoint(path), image_size=8, dtype=dtype)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype, torch.int64}


@pytest.mark.parametrize(
    ("variant", "timesteps", "image_size"),
    [("ti", 4, 224), ("s", 4, 224), ("m", 4, 224), ("l", 4, 224), ("cifar", 4, 32), ("dvsg", 16, 64)],
)
def test_defaults_are_the_authors(variant: str, timesteps: int, image_size: int) -> None:
    assert default_timesteps(VARIANTS[variant]) == timesteps
    assert default_image_size(VARIANTS[variant]) == image_size


def test_the_defaults_are_used(state: StateDict, path: Path) -> None:
    torch.save(state, path)
    model = build_model(load_checkpoint(path))
    assert (model.timesteps, model.image_size) == (4, 32)


def test_an_image_size_that_does_not_fit_is_refused(state: StateDict, path: Path) -> None:
    torch.save(state, path)
    with pytest.raises(UnsupportedError, match="image size 7: stage 0 is 7x7"):
        build_model(load_checkpoint(path), image_size=7)


# -- files that are no checkpoints -----------------------------------------------------------------------------------


def test_no_such_file(path: Path) -> None:
    assert refusal(path) == "no such file"


def test_a_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path).startswith("is a directory; name the checkpoint file inside it")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(path: Path) -> None:
    path.touch(mode=0)
    assert "cannot be read: Permission denied" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"hello, world\n", b"<!DOCTYPE html><title>Google Drive</title>"])
def test_text(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    message = refusal(path)
    assert repr(content[:16]) in message
    assert "not a checkpoint" in message


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [3, 60, 0.3, 0.6, 0.95])
def test_a_truncated_file(state: StateDict, path: Path, zipped: bool, kept: float) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.99])
def test_a_truncated_safetensors_file(state: StateDict, path: Path, kept: float) -> None:
    save_file(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    message = refusal(path)
    assert "damaged safetensors file" in message or "not a checkpoint" in message


def test_another_zip_file(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))
    assert "no PyTorch checkpoint" in refusal(path)


def test_torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert "TorchScript" in refusal(path)


def test_an_error_of_many_lines_is_cut_to_one(state: StateDict, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(state, path)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("what happened\nand what PyTorch has to say about it")

    monkeypatch.setattr(torch, "load", fail)
    assert "(RuntimeError: what happened)" in refusal(path)


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def dump(value: object, path: Path, protocol: int) -> None:
    with path.open("wb") as file:
        pickle.dump(value, file, protocol=protocol)


@pytest.mark.parametrize(
    ("save", "called"),
    [
        (torch.save, True),
        (lambda value, path: torch.save({"model": value}, path), True),
        (lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False), True),
        (lambda value, path: dump(value, path, 2), True),
        (lambda value, path: dump(value, path, 4), False),
        (lambda value, path: dump({"model": value}, path, 5), False),
    ],
)
def test_a_file_that_would_execute_code_is_refused_and_not_run(
    tmp_path: Path, path: Path, save: Callable[[object, Path], None], called: bool
) -> None:
    target = tmp_path / "exploded"
    save(Bomb(target), path)
    message = refusal(path)
    assert "refused" in message
    assert "would execute code" in message
    assert ("posix.mkdir" in message) == called
    assert "torch.save(model.state_dict()" in message
    assert not target.exists()


def test_a_pickled_model_is_refused_with_its_name(path: Path) -> None:
    torch.save(SpikingResformer(SMALL, timesteps=1, image_size=8), path)
    assert "resformer.models.spikingresformer.SpikingResformer" in refusal(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "holds no state dict but a value of type int"),
        ([torch.zeros(3)], "holds no state dict but a value of type list"),
        ({}, "the state dict is empty"),
        ({"model": {}}, "the state dict is empty"),
        ({"epoch": 3, "acc": 0.5}, "'epoch' is no tensor (int)"),
        ({"state_dict": {"a": torch.zeros(3)}}, "no tensor prologue.0.weight"),
        ({"weights of mine": {"a": torch.zeros(3)}}, "'weights of mine' is no tensor (dict)"),
        ({"model": {"a": torch.zeros(3), "b": None}}, "'b' is no tensor (NoneType)"),
        ({3: torch.zeros(3)}, "3 is no tensor"),
    ],
)
def test_no_state_dict(path: Path, value: object, message: str) -> None:
    torch.save(value, path)
    assert message in refusal(path)


# -- state dicts that are no SpikingResformer's ----------------------------------------------------------------------


def test_another_networks_state_dict(path: Path) -> None:
    names = ["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.weight", "fc.weight", "fc.bias"]
    torch.save({name: torch.zeros(3) for name in names}, path)
    message = refusal(path)
    assert "not a SpikingResformer: expected names like prologue.0.weight" in message
    assert "6 of 6 names are foreign, such as conv1.weight, bn1.weight, layer1.0.conv1.weight, …" in message


def test_every_missing_tensor_is_named(state: StateDict, path: Path) -> None:
    for name in state:
        if name.endswith("num_batches_tracked"):
            continue
        torch.save({other: tensor for other, tensor in state.items() if other != name}, path)
        message = refusal(path)
        assert name in message
        assert "missing" in message or name == "prologue.0.weight"


@pytest.mark.parametrize("prefix", ["layers.0.", "layers.0.0.", "layers.1.", "layers.1.0.", "classifier."])
def test_missing_modules_are_named(state: StateDict, path: Path, prefix: str) -> None:
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith(prefix)}, path)
    if prefix == "layers.1.":  # what remains is a network of one stage, but for the classifier
        assert "classifier.weight has shape (5, 16), but the other tensors call for (5, 8)" in refusal(path)
    else:
        message = refusal(path)
        assert "missing tensor" in message
        assert prefix in message


def test_every_clash_of_shapes_is_refused(state: StateDict, path: Path) -> None:
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked") or name == "classifier.weight":  # twice its rows: twice the classes
            continue
        torch.save(state | {name: torch.cat([tensor, tensor])}, path)
        with pytest.raises((FileFormatError, UnsupportedError)):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "layers.0.0.Wproj.weight",
            (8, 4, 1, 1),
            "has shape (8, 4, 1, 1), but the other tensors call for (8, 8, 1, 1)",
        ),
        ("layers.0.0.norm.bn.bias", (15,), "has shape (15,), but the other tensors call for (16,)"),
        ("layers.0.0.W.weight", (16, 8), "has shape (16, 8), where 4 axes of at least 1 are expected"),
        ("layers.0.1.up.1.weight", (32, 0, 1, 1), "has shape (32, 0, 1, 1), where 4 axes of at least 1 are expected"),
        ("classifier.weight", (5,), "has shape (5,), where 2 axes of at least 1 are expected"),
    ],
)
def test_a_clash_of_shapes_is_described(
    state: StateDict, path: Path, name: str, shape: tuple[int, ...], message: str
) -> None:
    torch.save(state | {name: torch.zeros(shape)}, path)
    assert f"{name} {message}" in refusal(path)


def test_a_gap_in_the_convolutions_of_a_feed_forward_is_named(state: StateDict, path: Path) -> None:
    torch.save({name.replace("layers.1.1.conv.1.", "layers.1.1.conv.9999."): x for name, x in state.items()}, path)
    assert "missing tensor layers.1.1.conv.1.1.weight" in refusal(path)


def test_foreign_tensors(state: StateDict, path: Path) -> None:
    torch.save(state | {"layers.0.0.Wproj.bias": torch.zeros(8), "total": torch.zeros(1)}, path)
    message = refusal(path)
    assert f"2 of {len(state) + 2} tensors are no SpikingResformer's" in message
    assert "layers.0.0.Wproj.bias, total" in message


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("prologue.0.weight", (8, 1, 5, 5), "prologue.0.weight is a 5x5 convolution"),
        ("layers.0.1.up.1.weight", (30, 8, 1, 1), "30 inner channels are no multiple of 8"),
        ("layers.0.0.firing_rate_x", (1, 1, 3, 1, 1), "stage 0: 8 planes cannot be split evenly into 3 heads"),
    ],
)
def test_an_unsupported_kind_of_network(
    state: StateDict, path: Path, name: str, shape: tuple[int, ...], message: str
) -> None:
    torch.save(state | {name: torch.zeros(shape)}, path)
    assert message in refusal(path, UnsupportedError)


def test_blocks_of_one_stage_must_be_alike(path: Path) -> None:
    state = SpikingResformer(
        dataclasses.replace(SMALL, blocks=(("DSSA", "DSSA"), ("GWFFN",))), timesteps=1, image_size=8
    ).state_dict()
    torch.save(state | {"layers.0.1.W.weight": torch.zeros(16, 8, 4, 4)}, path)
    assert "layers.0.1: patch_sizes is 4, but 2 in an earlier block of stage 0" in refusal(path, UnsupportedError)


def test_downsampling_must_begin_a_stage(state: StateDict, path: Path) -> None:
    swapped = {
        name.replace("layers.1.0.", "layers.1.x.")
        .replace("layers.1.1.", "layers.1.0.")
        .replace("layers.1.x.", "layers.1.1."): tensor
        for name, tensor in state.items()
    }
    torch.save(swapped, path)
    assert "layers.1.0 is a GWFFN: each stage but the first begins with a Downsample" in refusal(path, UnsupportedError)


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["prologue.0.weight", "layers.1.2.norm.bn.running_var", "layers.0.0.firing_rate_x"])
def test_values_that_are_not_finite(state: StateDict, path: Path, name: str, value: float) -> None:
    state[name].view(-1)[0] = value
    torch.save(state, path)
    assert f"{name} holds 1 NaN or infinite values of {state[name].numel()}" in refusal(path)


def test_values_that_32_bits_do_not_hold(state: StateDict, path: Path) -> None:
    state["prologue.0.weight"] = state["prologue.0.weight"].double()
    state["prologue.0.weight"].view(-1)[0] = -1e300
    torch.save(state, path)
    assert "prologue.0.weight holds 1 NaN or infinite values" in refusal(path)


def test_a_negative_variance(state: StateDict, path: Path) -> None:
    state["layers.0.0.norm.bn.running_var"][5] = -0.5
    torch.save(state, path)
    assert "layers.0.0.norm.bn.running_var: channel 5 has the variance -0.5" in refusal(path)


def test_integer_weights(state: StateDict, path: Path) -> None:
    torch.save(state | {"classifier.weight": state["classifier.weight"].to(torch.int8)}, path)
    assert "classifier.weight holds torch.int8: expected floating point" in refusal(path)


@pytest.mark.parametrize("rate", [0.0, -0.1, float("nan")])
@pytest.mark.parametrize("name", ["layers.1.2.firing_rate_x", "layers.1.2.firing_rate_attn"])
def test_rates_that_are_not_positive(state: StateDict, name: str, rate: float) -> None:
    check_rates(state)
    state[name][0, 0, 1] = rate
    with pytest.raises(UnsupportedError, match=f"{name}: head 1 has the firing rate {rate:g}"):
        check_rates(state)


def test_a_new_network_loads_but_fails_the_check_of_rates(path: Path) -> None:
    save_checkpoint(SpikingResformer(SMALL, timesteps=1, image_size=8), path)
    with pytest.raises(UnsupportedError, match=r"layers\.0\.0\.firing_rate_x: head 0 has the firing rate 0"):
        check_rates(load_checkpoint(path).state)


def test_rates_of_a_loaded_network_go_on_from_where_they_were(state: StateDict, path: Path) -> None:
    torch.save(state, path)
    model = build_model(load_checkpoint(path), image_size=8).train()
    model(8 * torch.rand(2, 1, 8, 8, dtype=torch.float64))
    functional.reset_net(model)
    moved = model.state_dict()["layers.0.0.firing_rate_x"].item() - 0.25
    assert 0 < abs(moved) < 0.001
