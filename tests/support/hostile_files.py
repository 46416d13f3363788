"""Files like those that once broke a reader; each function's name says what is wrong with the file it writes.

No file holds more than zeros, punctuation and nesting.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import torch

from support.builds import Tiny
from support.net_files import conv, dense, flatten, pixels, write_net

Write = Callable[[Path, Tiny], None]
"""Writes one file."""

NETWORK_BIAS = "node/nodes/affine/bias"
ESCAPE = "\x1b[31mred"


# --- NIR, which is HDF5


def small_network(path: Path) -> None:
    """20 LIF neurons behind an Affine layer."""
    one = np.ones(20)
    lif = nir.LIF(2e-4 * one, one, 0 * one, one, v_reset=0 * one)
    nir.write(path, nir.NIRGraph.from_list(nir.Affine(np.eye(20), one), lif))


def damaged_network(damage: Callable[[h5py.File], object]) -> Write:
    """Writes the small network, and damages its file."""

    def write(path: Path, _tiny: Tiny) -> None:
        small_network(path)
        with h5py.File(path, "r+") as file:
            damage(file)

    return write


def junk(**options: Any) -> Write:
    """Writes the small network with a needless data set among its metadata."""
    return damaged_network(lambda file: file.require_group("node/metadata").create_dataset("junk", **options))


def replaced(name: str, make: Callable[[h5py.File], Any]) -> Callable[[h5py.File], None]:
    """Puts what ``make`` returns under a name, in place of what is there."""

    def damage(file: h5py.File) -> None:
        made = make(file)
        del file[name]
        file[name] = made

    return damage


def external_storage(name: str, size: int) -> Callable[[h5py.File], None]:
    """Replaces a data set by one whose values lie in another file."""

    def damage(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, (size,), "u1", external=[("/etc/passwd", 0, size)])

    return damage


def virtual(name: str, size: int) -> Callable[[h5py.File], None]:
    """Replaces a data set by a view of a data set in another file."""

    def damage(file: h5py.File) -> None:
        del file[name]
        layout = h5py.VirtualLayout((size,), "f8")
        layout[:] = h5py.VirtualSource("other", name, (size,))
        file.create_virtual_dataset(name, layout)

    return damage


def instead_of_bias(make: Callable[[h5py.File], Any]) -> Write:
    """Writes the small network with what ``make`` returns in place of its bias."""
    return damaged_network(replaced(NETWORK_BIAS, make))


def doubled(file: h5py.File) -> None:
    """Makes 2^60 paths to the last group: each group holds the next one under two names."""
    group = file.require_group("node/metadata")
    for _ in range(60):
        child = group.create_group("a")
        group["b"] = child
        group = child


def circle(file: h5py.File) -> None:
    file["node/metadata/again"] = file["node"]


def deep(file: h5py.File) -> None:
    file.create_group("node/metadata/" + "/".join("a" * 100))


def one_chunk_of_many(file: h5py.File) -> None:
    options = {"chunks": (2**20,), "compression": "gzip"}
    file.require_group("node/metadata").create_dataset("junk", (2**30,), "u1", **options)[:10] = 1


def chunk_of_zeros(file: h5py.File) -> None:
    """Stores a quarter of a gigabyte in a chunk that declares four bytes."""
    made = file.require_group("node/metadata").create_dataset("junk", (4,), "u1", chunks=(4,), compression="gzip")
    made.id.write_direct_chunk((0,), zlib.compress(bytes(2**28), 9))


def padded_network(path: Path, _tiny: Tiny) -> None:
    """Writes a convolution with few windows, far apart in a padding of zeros that would take 29 GB."""
    shape, made = {"input": np.array([1, 4, 4])}, {"output": np.array([1, 2, 2])}
    wide = nir.Conv2d((4, 4), np.ones((1, 1, 3, 3)), 60_000, 30_000, 1, 1, np.zeros(1))
    neurons = nir.IF(*(np.full((1, 2, 2), each) for each in (1.0, 1.0, 0.0)))
    nodes = {"input": nir.Input(shape), "wide": wide, "neurons": neurons, "output": nir.Output(made)}
    order = list(nodes)
    nir.write(path, nir.NIRGraph(nodes, list(itertools.pairwise(order))))


def set_shape(value: float) -> Callable[[h5py.File], None]:
    def damage(file: h5py.File) -> None:
        del file["node/nodes/input/shape"]
        file["node/nodes/input/shape"] = np.array([value])

    return damage


def metadata_group(file: h5py.File) -> h5py.Group:
    return file.require_group("node/metadata")


def endless_text(write: Write, name: str) -> Write:
    """Writes a file in which the last text of a data set states a length of 4 GiB."""

    def written(path: Path, tiny: Tiny) -> None:
        write(path, tiny)
        with h5py.File(path, "r") as file:
            place, size = file[name].id.get_offset(), file[name].id.get_storage_size()
        data = bytearray(path.read_bytes())
        data[place + size - 16 : place + size - 12] = b"\xff" * 4
        path.write_bytes(data)

    return written


def edges_of_numbers(file: h5py.File) -> None:
    """Stores numbers where names are expected; as Python's objects they would take several times the memory."""
    del file["node/edges"]
    file.create_dataset("node/edges", (2**24, 2), "f8")


def short_texts(file: h5py.File) -> None:
    """Stores texts of one byte each; as a Python string, each would take fifty."""
    metadata_group(file).create_dataset("junk", (2**21,), "S1")


NIR: Mapping[str, tuple[Write, str]] = {
    "external storage": (damaged_network(external_storage(NETWORK_BIAS, 20)), "its values lie in another file"),
    "external link": (
        instead_of_bias(lambda _: h5py.ExternalLink("other.nir", NETWORK_BIAS)),
        "is a link into another file",
    ),
    "soft link": (instead_of_bias(lambda _: h5py.SoftLink("/node/nodes/affine/weight")), "is a soft link"),
    "hard link": (instead_of_bias(lambda file: file["node/nodes/lif/r"]), "under another name"),
    "virtual data set": (damaged_network(virtual(NETWORK_BIAS, 20)), "is a virtual data set"),
    "doubled groups": (damaged_network(doubled), "under another name"),
    "group in itself": (damaged_network(circle), "under another name"),
    "deep groups": (damaged_network(deep), "nested too deeply"),
    "declared": (junk(shape=(10**9,), dtype="f8"), "bytes larger than 4 times the file"),
    "declared in chunks": (junk(shape=(10**9,), dtype="f8", chunks=(10**6,)), "repeats a value over 8000000000 bytes"),
    "compressed": (
        damaged_network(one_chunk_of_many),
        "bytes larger than 4 times the file",
    ),
    "chunk of zeros": (damaged_network(chunk_of_zeros), "a chunk unpacks to more than its 8 bytes"),
    "edges of numbers": (damaged_network(edges_of_numbers), "no pairs of names"),
    "endless text": (endless_text(damaged_network(lambda _: None), "node/edges"), "states a text of 4294967295 bytes"),
    "short texts": (damaged_network(short_texts), "texts, the limit is 1048576"),
    "many sizes": (
        damaged_network(replaced("node/nodes/input/shape", lambda _: np.ones(2**20, np.int8))),
        "shape has 1048576 values",
    ),
    "another filter": (junk(data=np.arange(4), chunks=(4,), scaleoffset=0), "is compressed by filter"),
    "records": (junk(data=np.zeros(3, [("a", "f4"), ("b", "i4")])), "holds neither numbers nor texts"),
    "references": (junk(shape=(3,), dtype=h5py.ref_dtype), "holds neither numbers nor texts"),
    "type of its own": (
        damaged_network(lambda file: metadata_group(file).__setitem__("t", np.dtype("f4"))),
        "is neither a group nor a data set",
    ),
    "long name": (damaged_network(lambda file: metadata_group(file).create_group("n" * 5000)), "a name of 5000 bytes"),
    "name that paints": (damaged_network(lambda file: metadata_group(file).create_group(ESCAPE)), "no printable text"),
    "infinite input": (damaged_network(set_shape(np.inf)), "not whole numbers"),
    "wide padding": (padded_network, "pads what it reads to 3600480016 values a step"),
    "endless input": (damaged_network(set_shape(1e9)), "makes 1000000000 values a step"),
    "infinite timesteps": (
        damaged_network(lambda file: metadata_group(file).__setitem__("timesteps", np.inf)),
        "timesteps is inf",
    ),
}


# --- netx, which is HDF5 too

LAYER_BIAS = "layer/1/bias"


def damaged_net(damage: Callable[[h5py.File], object]) -> Write:
    """Writes a small netx network, and damages its file."""

    def write(path: Path, _tiny: Tiny) -> None:
        maps = conv(np.full((2, 1, 3, 3), 8.0), (2, 2, 2), bias=np.zeros(2))
        write_net(path, pixels(1, 4, 4), maps, flatten(8), dense(np.ones((3, 8))))
        with h5py.File(path, "r+") as file:
            damage(file)

    return write


def instead_of(name: str, make: Callable[[h5py.File], Any]) -> Write:
    """Writes the small netx network with what ``make`` returns under a name."""
    return damaged_net(replaced(name, make))


def repeated(file: h5py.File) -> None:
    """Replaces weights by a single repeated value, which HDF5 stores once."""
    del file["layer/3/weight"]
    file.create_dataset("layer/3/weight", (2**10, 2**16), "u1", chunks=(2**10, 2**10), fillvalue=1)


NET: Mapping[str, tuple[Write, str]] = {
    "repeated weights": (damaged_net(repeated), "weight repeats values 67108864 times, the limit is"),
    "external storage": (damaged_net(external_storage(LAYER_BIAS, 2)), "its values lie in another file"),
    "external link": (
        instead_of(LAYER_BIAS, lambda _: h5py.ExternalLink("other.net", LAYER_BIAS)),
        "is a link into another file",
    ),
    "soft link": (instead_of(LAYER_BIAS, lambda _: h5py.SoftLink("/layer/1/weight")), "is a soft link"),
    "hard link": (instead_of(LAYER_BIAS, lambda file: file["layer/3/weight"]), "under another name"),
    "virtual data set": (damaged_net(virtual(LAYER_BIAS, 2)), "is a virtual data set"),
    "deep groups": (damaged_net(lambda file: file.create_group("layer/1/" + "/".join("a" * 100))), "nested too deeply"),
    "declared": (
        damaged_net(lambda file: file.create_dataset("layer/1/junk", (10**9,), "f8")),
        "bytes larger than 4 times the file",
    ),
    "endless text": (
        endless_text(damaged_net(lambda _: None), "layer/1/neuron/type"),
        "states a text of 4294967295 bytes",
    ),
    "many sizes": (instead_of("layer/0/shape", lambda _: np.ones(2**20)), "its shape has 1048576 sizes"),
    "endless input": (instead_of("layer/0/shape", lambda _: [10**9, 10**9, 3]), "values a step"),
    "infinite shape": (instead_of("layer/0/shape", lambda _: [np.inf, 3, 3]), "shape holds NaN or infinite values"),
    "no numbers": (instead_of("layer/1/weight", lambda _: np.full((2, 1, 3, 3), np.nan)), "weight holds NaN"),
    "fractions": (instead_of("layer/3/weight", lambda _: np.full((3, 8), 0.5)), "weight holds 0.5"),
    "type of bytes": (instead_of("layer/1/type", lambda _: np.void(b"\x00\xff")), "neither numbers nor texts"),
    "a number as type": (instead_of("layer/1/type", lambda _: 3), "has no type that is a text"),
    "a layer that is a number": (instead_of("layer/2", lambda _: 3), "layer.2: is no group of fields"),
    "neurons that are a number": (instead_of("layer/1/neuron", lambda _: 3), "layer.1: its neuron is no group"),
    "layers without numbers": (
        damaged_net(lambda file: file.move("layer/3", "layer/x")),
        "layer.x: the layers are not",
    ),
    "infinite timesteps": (
        damaged_net(lambda file: file.__setitem__("simulation/tSample", np.inf)),
        "tSample holds NaN",
    ),
}


# --- arrays of NumPy


def npy(header: str, *, version: int = 1, size: int | None = None) -> bytes:
    """An array's file with a given header, and zeros for values."""
    text = header.encode("latin-1")
    length = struct.pack("<H" if version == 1 else "<I", len(text) if size is None else size)
    return b"\x93NUMPY" + bytes((version, 0)) + length + text + bytes(64)


def described(descr: str = "<f4", shape: str = "(3, 1, 8, 8)", more: str = "") -> bytes:
    return npy(f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, {more}}}\n")


def content(data: bytes) -> Write:
    return lambda path, _tiny: path.write_bytes(data) and None


def archive(compression: int = zipfile.ZIP_STORED, data: bytes | None = None, **members: bytes) -> bytes:
    """A zip archive of the members; without members, of one array, by default images of zeros."""
    buffer = io.BytesIO()
    if not members:
        values = io.BytesIO()
        np.save(values, np.zeros((3, 1, 8, 8), np.float32))
        members = {"images.npy": values.getvalue() if data is None else data}
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name, each in members.items():
            made.writestr(name, each)
    return buffer.getvalue()


def patched(data: bytes, local: int, central: int, value: int) -> bytes:
    """An archive with two bytes changed in its local header and two in its central header."""
    changed = bytearray(data)
    struct.pack_into("<H", changed, data.index(b"PK\x03\x04") + local, value)
    struct.pack_into("<H", changed, data.index(b"PK\x01\x02") + central, value)
    return bytes(changed)


def bomb() -> bytes:
    """An archive whose one deflated member states 2 GiB, as does the array's own header."""
    header = described(shape=f"({2**19}, 1, 32, 32)")[:-64]
    data = bytearray(archive(zipfile.ZIP_DEFLATED, data=header + bytes(2**20)))
    for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(signature) + place, len(header) + 2**31)
    return bytes(data)


def corrupt_lzma() -> bytes:
    data = bytearray(archive(zipfile.ZIP_LZMA))
    data[60:75] = bytes(15)
    return bytes(data)


VERSION, FLAGS, METHOD = (4, 6), (6, 8), (8, 10)
"""Offsets of each field in a member's local header and in its central header."""

ARRAYS: Mapping[str, tuple[Write, str]] = {
    "minus signs": (content(described(more=f"'x': {'-' * 3000}1")), "where a plain type"),
    "brackets": (content(npy("[" * 5000, version=3)), "no description of an array"),
    "words that end nowhere": (content(npy(": '<f8,\x7f'fortran_order': True, (", version=1)), "no description"),
    "two fields": (content(described("<f8,<i4")), "no plain type"),
    "values without bytes": (content(described("|V0")), "whose values have no bytes"),
    "shape of truths": (content(described(shape="(True, 1, 8, 8)")), "where a plain type"),
    "shape beyond 64 bits": (content(described(shape=f"({10**21},)")), "where a plain type"),
    "shape beyond the file": (content(described(shape=f"({10**12}, 1, 8, 8)")), "truncated or damaged"),
    "negative shape": (content(described(shape="(-3, 1, 8, 8)")), "where a plain type"),
    "many axes": (content(described(shape=f"({'1, ' * 40})")), "has 40 axes"),
    "ambiguous digits": (content(described(shape=f"({'1' * 3000}x)")), "where a plain type"),
    "endless header": (content(npy("{", version=2, size=2**31)), "its header has 2147483648 bytes"),
    "no shape": (content(npy("{'descr': '<f4', 'fortran_order': False}")), "its header has no 'shape'"),
    "Python objects": (content(described("|O")), "holds Python objects"),
    "lzma": (content(corrupt_lzma()), "compressed by method 14"),
    "bzip2": (content(archive(zipfile.ZIP_BZIP2)), "compressed by method 12"),
    "reduced": (content(patched(archive(), *METHOD, 2)), "compressed by method 2"),
    "encrypted": (content(patched(archive(), *FLAGS, 1)), "is encrypted"),
    "patched data": (content(patched(archive(), *FLAGS, 32)), "NotImplementedError"),
    "version of the future": (content(patched(archive(), *VERSION, 73)), "zip file version 7.3"),
    "brackets in an archive": (content(archive(data=npy("[" * 5000, version=3))), "no description of an array"),
    "minus signs in an archive": (content(archive(data=described(more=f"'x': {'-' * 3000}1"))), "where a plain type"),
    "deflated bomb": (content(bomb()), "has 2147483648 bytes when unpacked, the limit is 1073741824"),
    "member that paints": (content(archive(**{ESCAPE: b"", "b": b""})), "name one array"),
    "no zip at all": (content(b"PK\x03\x04" + bytes(100)), "truncated or damaged"),
}


# --- checkpoints


def with_tensor(make: Callable[[torch.Tensor], torch.Tensor], name: str, **options: Any) -> Write:
    """Writes the tiny checkpoint with another tensor under a name."""

    def write(path: Path, tiny: Tiny) -> None:
        state = torch.load(tiny.model, weights_only=True)["model"]
        torch.save({"model": {**state, name: make(state[name])}}, path, **options)

    return write


CLASSIFIER = "classifier.weight"


def with_ending(make: Callable[[torch.Tensor], torch.Tensor], ending: str, **options: Any) -> Write:
    """Writes the tiny checkpoint with another tensor in place of the first whose name ends with ``ending``."""

    def write(path: Path, tiny: Tiny) -> None:
        names = torch.load(tiny.model, weights_only=True)["model"]
        with_tensor(make, next(name for name in names if name.endswith(ending)), **options)(path, tiny)

    return write


CHECKPOINTS: Mapping[str, tuple[Write, str]] = {
    "stride of zero": (
        with_tensor(lambda held: torch.zeros(1).expand(10**9, held.shape[1]), CLASSIFIER),
        f"{CLASSIFIER} has shape (1000000000, ",
    ),
    "no data": (with_tensor(lambda held: torch.zeros(held.shape, device="meta"), CLASSIFIER), CLASSIFIER),
    "sparse": (with_tensor(lambda held: held.to_sparse(), CLASSIFIER), f"{CLASSIFIER} is a sparse tensor"),
    "sparse variance": (with_ending(lambda held: held.to_sparse(), ".running_var"), "running_var is a sparse tensor"),
    "counter without data, in the old format": (
        with_ending(lambda held: held.to(device="meta"), ".num_batches_tracked", _use_new_zipfile_serialization=False),
        "num_batches_tracked is a tensor without data",
    ),
}


# --- chips


def chip(text: str) -> Write:
    return lambda path, _tiny: path.write_text(f"extends: loihi2\nname: t\n{text}\n") and None


def laughs() -> str:
    """Aliases that are 10^9 values when written out."""
    nested = "[x, x, x, x, x, x, x, x, x, x]"
    lines = [f"a0: &a0 {nested}"]
    return "\n".join([*lines, *(f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 9))])


DIGITS = f"1{'0' * 400}"
CHIPS: Mapping[str, tuple[Write, str]] = {
    "aliases": (chip(laughs()), ":4: *a0 stands for another value"),
    "nesting": (chip("a: " + "[" * 5000), "nested too deeply"),
    "digits of an energy": (chip(f"synaptic_op_pj: {DIGITS}"), ":3: a number of 401 digits"),
    "digits of a count": (chip(f"axon_map_per_core: {DIGITS}"), ":3: a number of 401 digits"),
    "a large count": (chip("synapse_index_bits: 100000000000"), ":3: synapse_index_bits is 100000000000; the largest"),
    "a chip of 2^31 cores": (chip("cores_per_chip: 2147483647"), ":3: cores_per_chip is 2147483647; the largest"),
    "no cores": (chip("cores_per_chip: 0"), ":3: cores_per_chip is 0; the least is 1"),
    "an infinite energy": (chip("synaptic_op_pj: .inf"), ":3: synaptic_op_pj is inf"),
    "timestamp": (chip('step_ns: !!timestamp "x"'), ":3: the tag tag:yaml.org,2002:timestamp"),
    "empty integer": (chip('mesh_columns: !!int ""'), ":3: the tag tag:yaml.org,2002:int"),
    "set": (chip("spike_in_tile_pj: !!set {a}"), ":3: the tag tag:yaml.org,2002:set"),
    "truth": (chip('step_ns: !!bool "x"'), ":3: the tag tag:yaml.org,2002:bool"),
    "Python": (chip("step_ns: !!python/object/apply:os.system [ls]"), ":3: the tag"),
    "month 13": (chip("step_ns: 2001-13-45"), ":3: '2001-13-45' is no value"),
    "no digits": (chip("step_ns: 0b_"), ":3: '0b_' is no value"),
    "list": (chip("step_ns: [1]"), ":3: a list, where a number"),
    "key twice": (chip("step_ns: {value: 1, value: 2}"), ":3: value is there already"),
    "a name that paints": (chip('"\\e[31m": 1'), "no such constant"),
    "large": (chip("#" * 2**19), "bytes, the limit is"),
    "many keys": (chip("\n".join(f"k{i}: 1" for i in range(5000))), "keys and values, the limit"),
}


# --- what the commands write as JSON


def changed(whole: Callable[[], Any], *place: Any, to: Any) -> Write:
    """Writes the JSON that ``whole`` returns, with another value at a place."""

    def write(path: Path, _tiny: Tiny) -> None:
        made = json.loads(json.dumps(whole()))
        holder = made
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = to
        path.write_text(json.dumps(made))

    return write


def verification() -> dict[str, Any]:
    """A short verification result: of an equivalent network of one population."""
    tally = {"compared": 4, "mismatched": 0}
    check = {**tally, "demanded": True, "passed": True, "note": "", "first_divergence": None}
    return {
        "format": "resformer-verification",
        "format_version": 1,
        "version": "0",
        "backend": "sim",
        "samples": 1,
        "timesteps": 4,
        "equivalent": True,
        "passed": True,
        "verdict": ["EQUIVALENT", "accuracy: unknown", "to know: nothing to report"],
        "to_know": [],
        "shortfalls": [],
        "checks": {
            "float_graph_vs_torch": None,
            "backend_vs_program": check,
            "backend_vs_quantized_torch": None,
            "quantized_vs_original": None,
        },
        "not_run": {},
        "layers": [{"name": "a", **tally, "fired": 1, "checks": {"backend_vs_program": tally}}],
        "saturation": {},
        "ties": {},
        "input_values_clipped": 0,
        "input_largest": 1.0,
        "input_range": [-4.0, 4.0],
        "never_fired": [],
        "always_fired": [],
        "any_fired": True,
        "notes": [],
        "assumptions": [],
        "model_is_source": None,
        "accuracy": {},
        "accuracy_absent": "no labels were given",
        "classes": None,
        "preprocessing": {"resize": False, "mean": None, "std": None},
        "predictions": [0],
        "warnings": [],
        "labelled": 0,
        "accuracy_drop": None,
        "agreement": None,
        "limits": {"min_agreement": None, "max_accuracy_drop": None},
        "local": None,
    }


VERIFICATIONS: Mapping[str, tuple[Write, str]] = {
    "nesting": (content(b"[" * 100_000), "nested too deeply"),
    "nesting of 70": (content(b"[" * 70 + b"]" * 70), "nested too deeply"),
    "NaN": (changed(verification, "accuracy", to={"original": float("nan")}), "NaN is no number"),
    "infinity": (content(b'{"format": 1e999}'), "not what resformer-verify"),
    "5000 digits": (content(b'{"format": ' + b"1" * 5000 + b"}"), "no JSON"),
    "large": (content(b" " * (2**24 + 1)), "has 16777217 bytes"),
    "no UTF-8": (content(b'{"format": "\xff"}'), "no JSON"),
    "a layer that is nothing": (changed(verification, "layers", 0, to=None), "'layers[0]' is null, not an object"),
    "a negative count": (changed(verification, "samples", to=-1), "'samples' is -1, outside"),
    "a share above one": (changed(verification, "accuracy", to={"original": 1.5}), "'accuracy.original' is 1.5"),
    "a stranger's key": (changed(verification, ESCAPE, to=1), "is unknown"),
    "a check of no kind": (changed(verification, "checks", to={}), "'checks.float_graph_vs_torch' is missing"),
}


def pipe(path: Path, _tiny: Tiny) -> None:
    """Makes a pipe: whoever opens it waits for ever."""
    os.mkfifo(path)


def folder(path: Path, _tiny: Tiny) -> None:
    path.mkdir()
