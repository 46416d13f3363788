"""Checkpoints of strangers: nothing of a file is run, and none of the sizes that it declares is believed."""

import argparse
import collections
import datetime
import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resformer.errors import FileFormatError, UnsupportedError
from resformer.models import archive, gate, limits, reading, weights
from resformer.models.checkpoint import load_checkpoint
from resformer.models.limits import LONGEST_QUOTE, quote
from resformer.models.spikingresformer import Architecture, SpikingResformer

NAME = "classifier.weight"


@pytest.fixture(name="state", scope="module")
def fixture_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    architecture = Architecture(
        planes=(4,),
        blocks=(("DSSA",),),
        num_heads=(1,),
        patch_sizes=(1,),
        ffn_ratios=(1,),
        ffn_convs=(1,),
        group_sizes=(1,),
        num_classes=3,
        stem="conv3x3",
    )
    return dict(SpikingResformer(architecture, timesteps=1, image_size=4).state_dict())


def refusal(path: Path) -> str:
    with pytest.raises(FileFormatError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < 600
    return message


def rewrite(path: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED) -> None:
    """Write an archive's members again; a member that becomes None is left out."""
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            changed = change(name, data)
            if changed is not None:
                archive.writestr(name, changed)


# -- beside the weights ----------------------------------------------------------------------------------------------


BESIDE: dict[str, Any] = {
    "arguments": argparse.Namespace(lr=0.1, out=Path("/a/b"), nested=argparse.Namespace()),
    "numbers": {"a": np.float64(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.float32(1.5)},
    "array": np.zeros((2, 3)),
    "path": Path("/a/b"),
    "time": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
    "ordered": collections.OrderedDict(a=1),
    "grouped": collections.defaultdict(list, {"loss": [1.0]}),
    "counted": collections.Counter("abc"),
    "version": torch.torch_version.TorchVersion("2.4.0"),
    "size": torch.Size([1, 2]),
    "type": torch.float16,
    "set": {1, 2},
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("zipped", [True, False])
def test_harmless_objects_beside_the_weights(
    state: dict[str, torch.Tensor], tmp_path: Path, name: str, zipped: bool
) -> None:
    path = tmp_path / "m.pt"
    torch.save({"model": state, "beside": BESIDE[name]}, path, _use_new_zipfile_serialization=zipped)
    assert load_checkpoint(path).state.keys() == state.keys()


def test_numpys_numbers_are_read_as_numbers(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({"model": state, "timesteps": np.int64(7), "image_size": np.uint8(12)}, tmp_path / "m.pt")
    checkpoint = load_checkpoint(tmp_path / "m.pt")
    assert (checkpoint.timesteps, checkpoint.image_size) == (7, 12)


def test_what_numpy_1_wrote_is_read_too(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"model": state, "timesteps": np.int64(7)}, path)
    rewrite(path, lambda _, data: data.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))
    assert load_checkpoint(path).timesteps == 7


def test_stand_ins_are_gone_after_reading(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({"model": state, "args": argparse.Namespace(lr=0.1)}, tmp_path / "m.pt")
    before = set(torch.serialization.get_safe_globals())
    load_checkpoint(tmp_path / "m.pt")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "m.pt", weights_only=True)


class Calls:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "call",
    [
        Calls(os.getpid),
        Calls(eval, "1"),
        Calls(bytearray, 2**40),
        Calls(torch.FloatStorage, 2**40),
        Calls(torch.Tensor, 2**40),
        Calls(torch.zeros, 2**40),
        Calls(getattr, "a", "upper"),
        Calls(str.upper, "a"),
    ],
    ids=lambda call: getattr(call.call[0], "__name__", "?"),
)
def test_nothing_is_called_that_weights_do_not_need(
    state: dict[str, torch.Tensor], tmp_path: Path, call: Calls, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"model": state, "beside": call}, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    monkeypatch.setattr(torch, "load", None)  # the file is refused before this is called
    assert "refused: " in refusal(tmp_path / "m.pt")


# -- tensors ---------------------------------------------------------------------------------------------------------


BAD_TENSORS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "expanded": (lambda x: torch.zeros(1).expand(10**9, x.shape[1]), "whose elements share memory"),
    "overlapping": (lambda x: torch.zeros(x.numel()).as_strided(x.shape, (1, 1)), "whose elements share memory"),
    "meta": (lambda x: x.to("meta"), "is a tensor without data"),
    "sparse": (lambda x: x.to_sparse(), "is a sparse tensor"),
    "compressed": (lambda x: x.to_sparse_csr(), "is a sparse tensor"),
    "quantized": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "is a quantized tensor"),
    "complex": (lambda x: x.to(torch.complex64), "holds torch.complex64: expected floating point"),
    "eight bits": (lambda x: x.to(torch.float8_e4m3fn), "holds torch.float8_e4m3fn: expected floating point"),
    "integers": (lambda x: x.to(torch.int64), "holds torch.int64: expected floating point"),
    "booleans": (lambda x: x > 0, "holds torch.bool: expected floating point"),
    "infinite in 16 bits": (lambda x: torch.full_like(x, torch.inf).half(), "NaN or infinite values"),
    "NaN in bfloat16": (lambda x: torch.full_like(x, torch.nan).bfloat16(), "NaN or infinite values"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.ao:DeprecationWarning")
def test_a_tensor_that_is_no_dense_float_is_named(state: dict[str, torch.Tensor], tmp_path: Path, name: str) -> None:
    change, complaint = BAD_TENSORS[name]
    torch.save({"model": state | {NAME: change(state[NAME])}}, tmp_path / "m.pt")
    message = refusal(tmp_path / "m.pt")
    assert NAME in message
    assert complaint in message


def test_a_counter_without_data_is_refused_too(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    name = "prologue.1.bn.num_batches_tracked"
    torch.save(state | {name: state[name].to("meta")}, tmp_path / "m.pt")
    assert name in refusal(tmp_path / "m.pt")


def test_tensors_in_another_order_of_memory_are_read(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    moved = {n: x.to(memory_format=torch.channels_last) if x.dim() == 4 else x for n, x in state.items()}
    torch.save(moved | {NAME: state[NAME].t().contiguous().t()}, tmp_path / "m.pt")
    loaded = load_checkpoint(tmp_path / "m.pt").state
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_tensors_that_share_one_storage_are_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    name = "layers.0.0.norm.bn."
    torch.save(state | {f"{name}weight": state[f"{name}bias"]}, tmp_path / "m.pt")
    assert "but share" in refusal(tmp_path / "m.pt")


def test_tensors_in_one_storage_side_by_side_are_read(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    flat = torch.cat([tensor.flatten() for tensor in state.values() if tensor.is_floating_point()])
    parts, at = {}, 0
    for name, tensor in state.items():
        if tensor.is_floating_point():
            parts[name] = flat[at : at + tensor.numel()].view(tensor.shape)
            at += tensor.numel()
    torch.save(state | parts, tmp_path / "m.pt")
    loaded = load_checkpoint(tmp_path / "m.pt").state
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def storage_pickle(shape: tuple[int, ...], stride: tuple[int, ...], offset: int, elements: int) -> bytes:
    """The pickle of a tensor in a storage of ``elements`` elements, as torch.save writes it."""
    out = io.BytesIO()

    class Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
        def persistent_id(self, value: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", elements) if value is Ellipsis else None

    arguments = (..., offset, shape, stride, False, collections.OrderedDict())
    Pickler(out, protocol=2).dump({"a": Calls(torch._utils._rebuild_tensor_v2, *arguments)})
    return out.getvalue()


def test_tensors_lie_inside_their_storages() -> None:
    assert gate.look(io.BytesIO(storage_pickle((2, 3), (3, 1), 4, 10))) == {"0": 40}
    assert gate.look(io.BytesIO(storage_pickle((0, 10**15), (1, 1), 0, 0))) == {"0": 0}


@pytest.mark.parametrize(
    ("shape", "stride", "offset", "elements"),
    [
        ((2, 3), (3, 1), 5, 10),
        ((2, 3), (3, 1), 10**12, 10),
        ((10**12,), (1,), 0, 10),
        ((2, 3), (3, -1), 3, 10),
        ((-1, 3), (3, 1), 0, 10),
        ((2, 3), (3,), 0, 10),
        ((1,) * 9, (1,) * 9, 0, 10),
    ],
)
def test_tensors_outside_their_storages_are_refused_before_torch_sees_them(
    shape: tuple[int, ...], stride: tuple[int, ...], offset: int, elements: int
) -> None:
    with pytest.raises(FileFormatError, match=r"^a (has shape|is a tensor)"):
        gate.look(io.BytesIO(storage_pickle(shape, stride, offset, elements)))


# -- archives --------------------------------------------------------------------------------------------------------


def test_a_storage_that_is_smaller_than_declared(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(state, path)
    rewrite(path, lambda name, data: data[:4] if name.endswith("data/0") else data)
    assert "storage 0 has 4 bytes, where" in refusal(path)
    rewrite(path, lambda name, data: None if name.endswith("data/0") else data)
    assert "storage 0 is missing" in refusal(path)


@pytest.mark.parametrize("name", ["DATA.pkl", "other\0pkl"])
def test_members_that_pytorch_may_take_for_others_are_refused(tmp_path: Path, name: str) -> None:
    """PyTorch once read DATA.pkl, which no check had looked at."""
    archive_of(tmp_path / "m.pt", b"\x80\x02}.")
    with zipfile.ZipFile(tmp_path / "m.pt", "a") as file:
        file.writestr("m/" + "?" * len(name), b"\x80\x02N.")
    content = (tmp_path / "m.pt").read_bytes()
    (tmp_path / "m.pt").write_bytes(content.replace(b"?" * len(name), name.encode()))
    assert "may be taken for another" in refusal(tmp_path / "m.pt")


def test_an_archive_with_two_directories_is_refused(tmp_path: Path) -> None:
    """Python reads the directory before the end record, PyTorch the one at the offset that the record states."""
    archive_of(tmp_path / "one.pt", b"\x80\x02N.")
    archive_of(tmp_path / "two.pt", b"\x80\x02}.")
    one, two = ((tmp_path / name).read_bytes() for name in ("one.pt", "two.pt"))
    (tmp_path / "m.pt").write_bytes(one[: -archive.END.size] + two)
    assert "directory is not where" in refusal(tmp_path / "m.pt")
    (tmp_path / "m.pt").write_bytes(two[:-2] + b"\1\0x")
    assert "directory is not where" in refusal(tmp_path / "m.pt")


def test_an_end_of_large_archives_that_is_elsewhere_is_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\6\7") + 8
    content[place] ^= 1
    path.write_bytes(content)
    assert "directory is not where" in refusal(path)


def test_a_tar_archive_is_refused(tmp_path: Path) -> None:
    """PyTorch before 2.6 ran what it holds."""
    with tarfile.open(tmp_path / "m.pt", "w", format=tarfile.GNU_FORMAT) as file:
        file.addfile(tarfile.TarInfo("\udc80\2"), None)
    assert (tmp_path / "m.pt").read_bytes().startswith(b"\x80\2")
    assert "is a tar archive" in refusal(tmp_path / "m.pt")


def test_compressed_members_are_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(state, path)
    rewrite(path, lambda _, data: data, zipfile.ZIP_DEFLATED)
    assert "is compressed or encrypted" in refusal(path)


def test_members_that_share_bytes_are_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """A zip bomb without compression: many names for the same bytes."""
    path = tmp_path / "m.pt"
    torch.save(state, path)
    with zipfile.ZipFile(path, "a") as archive:
        big = zipfile.ZipInfo("m/data/big")
        archive.writestr(big, bytes(10**5))
        for index in range(100):
            again = zipfile.ZipInfo(f"m/data/{index + 10**6}")
            again.header_offset, again.file_size, again.compress_size = big.header_offset, 10**5, 10**5
            again.CRC = big.CRC
            archive.filelist.append(again)
    assert "its members declare" in refusal(path)


def test_a_file_without_an_archive_that_declares_more_than_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"a": torch.zeros(4)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    declared = b"M\x04" if b"M\x04" in whole else b"K\x04"
    assert whole.count(declared) >= 1
    path.write_bytes(whole.replace(declared, b"J" + struct.pack("<i", 2**30)))
    refusal(path)


# -- costs -----------------------------------------------------------------------------------------------------------


def archive_of(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("data.pkl", data), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"m/{name}", content)


def test_tuples_that_double_are_refused(tmp_path: Path) -> None:
    """To hash this tuple as a key would visit its parts 2^60 times."""
    nested = b"\x80\x02}K\x01" + b"q\x00h\x00\x86" * 60 + b"K\x01s."
    archive_of(tmp_path / "m.pt", nested)
    assert "a tuple of more than" in refusal(tmp_path / "m.pt")


def big(number: int) -> bytes:
    """A number in a pickle."""
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


MEETING = b"".join(big(number * (2**61 - 1)) for number in range(1, 8194))
"""Numbers whose hash is 0, so that each is compared with all before it."""
TUPLE = b"(" + b"K\x01" * 60_000 + b"t"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"}(" + b"N".join([*(big(number * (2**61 - 1)) for number in range(1, 8194)), b""]) + b"u.", "8193 keys"),
        (b"cbuiltins\nset\n](" + MEETING + b"e\x85R.", "8193 keys"),
        (b"ccollections\nCounter\n](" + MEETING + b"e\x85R.", "8193 keys"),
        (b"}" + TUPLE + b"q\x00Nsh\x00Ns.", "60001 keys"),
        (b"]]q\x00(" + b"K\x01" * 1000 + b"ea" + b"ctorch\nSize\nh\x00\x85Ra" * 2000 + b".", "containers of"),
        (b"ccollections\nOrderedDict\n]]X\x00\x08\x00\x00" + b"a" * 2048 + b"aNaa\x85R.", "2048 characters"),
        (b"}X\x00\x08\x00\x00" + b"a" * 2048 + b"Ns.", "2048 characters"),
        (b"Nr\xff\xff\xff\xff.", "as number 4294967295"),
    ],
    ids=["keys", "set", "counter", "tuples", "sizes", "pairs", "names", "memo"],
)
def test_what_takes_long_to_look_up_or_to_copy_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """Such a file of 4 MB once took 15 minutes."""
    archive_of(tmp_path / "m.pt", b"\x80\x02" + data)
    assert message in refusal(tmp_path / "m.pt")


def test_tensors_of_many_axes_are_refused_before_these_are_looked_at() -> None:
    assert gate._fault("dense", [gate._Storage("0", 1, 4), 0, (object(),) * 9, ()]) == (
        "is a tensor of 9 axes, the limit is 8"
    )


def test_nesting_is_refused_without_recursion(tmp_path: Path) -> None:
    archive_of(tmp_path / "m.pt", b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".")
    assert "value of type list" in refusal(tmp_path / "m.pt")


def test_what_contains_itself_is_refused(tmp_path: Path) -> None:
    archive_of(tmp_path / "m.pt", b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.")
    assert "'a' is no tensor" in refusal(tmp_path / "m.pt")


@pytest.mark.parametrize("budget", ["MOST_OPERATIONS", "LARGEST_PICKLE", "MOST_MEMBERS", "LARGEST_SAFETENSORS_HEADER"])
def test_budgets_are_kept(
    state: dict[str, torch.Tensor], tmp_path: Path, budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.pt"
    if "SAFETENSORS" in budget:
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save(state, path)
    load_checkpoint(path)
    assert getattr(limits, budget) > 1000
    for module in (archive, gate, reading):
        if hasattr(module, budget):
            monkeypatch.setattr(module, budget, 10)
    assert "10" in refusal(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\x02.",
        b"\x80\x02K\x01R.",
        b"\x80\x02h\x05.",
        b"\x80\x02(",
        b"\x80\x02}K\x01K\x02b.",
        b"\x80\x02]K\x01K\x02s.",
        b"\x80\x02}]K\x01s.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02)Q.",
        b"\x80\x02(X\x07\x00\x00\x00storageK\x01K\x01K\x01K\x01tQ.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n)R.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00idna\x86R.",
        b"\x80\x02ccollections\nOrderedDict\n]]\x61\x85R.",
        b"\x80\x02X\xff\xff\xff\xffa.",
        b"\x80\x02cposix\nsystem\n.",
    ],
)
def test_damaged_pickles(tmp_path: Path, data: bytes) -> None:
    archive_of(tmp_path / "zipped.pt", data)
    refusal(tmp_path / "zipped.pt")
    (tmp_path / "plain.pt").write_bytes(data)
    refusal(tmp_path / "plain.pt")


def test_flipped_bytes_never_end_in_another_error(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Either the file is refused in one line, or it still is a checkpoint."""
    path = tmp_path / "m.pt"
    rng = np.random.default_rng(0)
    printable: list[bool] = []
    for zipped in (True, False):
        torch.save({"model": state, "timesteps": np.int64(3)}, path, _use_new_zipfile_serialization=zipped)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(150):
            changed = whole.copy()
            changed[rng.integers(0, min(6000, len(whole)), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(changed.tobytes())
            try:
                load_checkpoint(path)
            except (FileFormatError, UnsupportedError) as error:
                printable.append(str(error).isprintable())
    assert len(printable) > 100
    assert all(printable)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.pt")
    assert "is no regular file" in refusal(tmp_path / "m.pt")


def test_an_error_that_no_check_foresaw_names_the_file(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(state, tmp_path / "m.pt")
    for error in (RecursionError("deep"), NotImplementedError("a\nb"), OverflowError("c"), MemoryError()):

        def fail(_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("resformer.models.checkpoint.check_values", fail)
        assert type(error).__name__ in refusal(tmp_path / "m.pt")


# -- text ------------------------------------------------------------------------------------------------------------


def test_names_from_files_are_cleaned_and_cut(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state | {"\x1b[31mred\n" + "x" * 10**5: torch.zeros(1)}, tmp_path / "m.pt")
    assert "�[31mred�xxx" in refusal(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("layers.0", "layers.0"),
        ("a\x00\x1b\u202eb\ud800", "a\ufffd\ufffd\ufffdb\ufffd"),
        ("y" * 81, "y" * 79 + "…"),
        ("y" * 80, "y" * 80),
        (3.5, "3.5"),
        (None, "None"),
        ([[]], "a value of type list"),
    ],
)
def test_quoting(value: object, expected: str) -> None:
    assert quote(value) == expected
    assert len(quote(value)) <= LONGEST_QUOTE


def test_quoting_a_number_without_end() -> None:
    assert len(quote(10**5000)) <= LONGEST_QUOTE


def test_braces_in_a_name_are_no_format() -> None:
    """A name could ask for as many blanks as memory holds."""
    with pytest.raises(FileFormatError, match=r"^\{:2000000000\} has 3 values"):
        limits.require_within(3, 2, "{:2000000000} has {} values")


def test_every_key_is_tried_once() -> None:
    assert len(set(weights.KEYS)) == len(weights.KEYS)


def test_the_authors_network_for_gestures_is_within_limits() -> None:
    """The numbers are the products and the program's bytes of a build of it, for 64 x 64 pixels in 16 steps."""
    products, size = 23_157_513_392, 2_841_461
    assert products * 20 / 16 < limits.MOST_WORK + limits.WORK_SHARE * size
