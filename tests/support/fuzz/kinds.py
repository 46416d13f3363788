"""Kinds of hostile input: what each damages, and the commands that read it."""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import os
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import nir
import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

import resformer
import resformer.compiler.chips
from resformer.errors import ResformerError
from resformer.models.limits import printable
from resformer.models.zoo.checkpoint import save_zoo_checkpoint
from resformer.models.zoo.recognise import build as build_zoo
from resformer.models.zoo.spikformer import SpikformerArchitecture
from resformer.runtime.cli import compile_options as compile_command
from resformer.runtime.cli import report as report_command
from resformer.runtime.cli import run as run_command_module
from resformer.runtime.cli import verify as verify_command
from support.builds import Tiny
from support.event_files import WRITERS, Recording, some_events, write_aedat4
from support.fuzz.damage import (
    NUMBERS,
    TEXTS,
    Rng,
    damaged_array,
    damaged_bytes,
    damaged_text,
    damaged_tree,
    pick,
)
from support.fuzz.forks import Wrong, run_command
from support.net_files import conv, dense, even, flatten, neurons, pixels, write_net
from support.program_files import put_together, take_apart

Statuses: TypeAlias = tuple[int, ...]

PROGRAM = "program.safetensors"
CHIPS = Path(resformer.compiler.chips.__file__).parent


@dataclass(frozen=True)
class Seeds:
    """Correct files, of which damaged copies are made.

    Attributes:
        tiny: A checkpoint, its build and its samples.
        nir: A NIR file.
        net: A netx network.
        spikes: Samples for the network of the NIR file.
        verification: What ``resformer-verify --json`` wrote of the build.
        cost: What ``resformer-run --cost --json`` wrote.
        laid_out: The build on a chip of small cores, with a layout for the shortest step, and its cost.
        laid_out_cost: What ``resformer-run --cost --json`` wrote of ``laid_out``.
        zoo: A checkpoint of another family.
        frames: The build of a network of event frames.
    """

    tiny: Tiny
    nir: Path
    net: Path
    spikes: Path
    verification: Path
    cost: Path
    laid_out: Path
    laid_out_cost: Path
    zoo: Path
    frames: Path


def make_seeds(tiny: Tiny, folder: Path) -> Seeds:
    """Write the other seeds, and run every command once, so that processes forked from this one have all modules."""
    names = (
        "net.nir",
        "net.net",
        "spikes.npy",
        "verify.json",
        "cost.json",
        "laid-out",
        "laid-out.json",
        "zoo.pt",
        "frames",
    )
    seeds = Seeds(tiny, *(folder / name for name in names))
    rng, ones = np.random.default_rng(0), np.ones(5)
    network = nir.NIRGraph.from_list(
        nir.Affine(rng.normal(size=(5, 6)), ones), nir.LIF(2 * ones, ones, 0 * ones, ones, v_reset=0 * ones),
        nir.Linear(rng.normal(size=(4, 5))), nir.IF(np.ones(4), np.ones(4), v_reset=np.zeros(4)),
    )  # fmt: skip
    nir.write(seeds.nir, network)
    back = {**dense(even(rng, (4, 6)), bias=np.ones(4)), "type": [b"dense_rec"], "weight_rec": even(rng, (4, 4))}
    maps = conv(even(rng, (2, 1, 3, 3)), (2, 2, 2), bias=np.ones(2))
    inner = dense(even(rng, (6, 8)), delay=np.arange(6.0), neuron=neurons(iDecay=400, vDecay=np.arange(6)))
    write_net(seeds.net, pixels(1, 4, 4), maps, flatten(8), inner, back)
    np.save(seeds.spikes, (rng.random((2, 3, 6)) < 0.5).astype(np.float32))
    statuses: list[int] = []
    build, images = tiny.build, ("--input", tiny.images, "--samples", 2)
    statuses.append(verify(build, *images, "--backend", "sim", "--model", tiny.model, "--json", seeds.verification))
    statuses.append(run(build, *images, "--backend", "sim", "--cost", "--json", seeds.cost))
    statuses.append(run(build, *images, "--backend", "reference"))
    statuses.append(report(build, "--verify", seeds.verification, "--cost", seeds.cost, "-o", folder / "page.html"))
    (folder / "small.yaml").write_text(SMALL_CORES, encoding="utf-8")
    time = ("--chip", folder / "small.yaml", "--optimize", "time", "--optimize-cores", 150, "--quiet")
    statuses.append(compile_(tiny.model, *tiny.arguments, "--target", "lava", *time, "-o", seeds.laid_out))
    statuses.append(run(seeds.laid_out, *images, "--backend", "sim", "--cost", "--json", seeds.laid_out_cost))
    if not all(
        json.loads(path.read_text())["layout"] for path in (seeds.laid_out / "placement.json", seeds.laid_out_cost)
    ):
        raise ValueError("the build was not laid out anew: no input would reach the reader of layouts")
    statuses.append(report(seeds.laid_out, "--cost", seeds.laid_out_cost, "-o", folder / "page.html"))
    resformer.load(seeds.laid_out).place()
    statuses.append(compile_(seeds.nir, *NIR_OPTIONS, "-o", folder / "nir"))
    statuses.append(run(folder / "nir", "--input", seeds.spikes, "--backend", "sim"))
    statuses.append(compile_(seeds.net, *NET_OPTIONS, "-o", folder / "net"))
    statuses.append(compile_(tiny.model, *tiny.arguments, "--target", "sim", "-o", folder / "again"))
    architecture = SpikformerArchitecture(embed_dims=8, depth=1, num_heads=2, num_classes=3, pooling="0110")
    save_zoo_checkpoint(build_zoo(architecture, timesteps=2), seeds.zoo, image_size=8)
    statuses.append(compile_(seeds.zoo, *ZOO_OPTIONS, "-o", folder / "zoo"))
    pixels_of_events = nir.NIRGraph.from_list(
        nir.Conv2d((8, 8), rng.normal(size=(2, 2, 3, 3)), 2, 1, 1, 1, np.zeros(2)),
        nir.IF(np.ones((2, 4, 4)), np.ones((2, 4, 4)), v_reset=np.zeros((2, 4, 4))),
        nir.Flatten({"input": np.array([2, 4, 4])}, 0, -1), nir.Linear(rng.normal(size=(4, 32))),
    )  # fmt: skip
    nir.write(folder / "frames.nir", pixels_of_events)
    statuses.append(compile_(folder / "frames.nir", *NIR_OPTIONS, "--input-kind", "frames", "-o", seeds.frames))
    write_aedat4(folder / "seed.aedat4", some_events(50, (8, 8)))
    sensor = ("--sensor-size", "8x8", "--bin-ms", 10)
    statuses.append(run(seeds.frames, "--input", folder / "seed.aedat4", *sensor, "--backend", "sim"))
    if any(statuses):
        raise ValueError(f"a command refused what is right, before any damage: {statuses}")
    return seeds


SMALL_CORES = """
extends: loihi2
name: small
neurons_per_core: 64
memory_words_per_core: 3000
cores_per_tile: 1
cores_per_chip: 12
mesh_columns: 3
"""
"""A chip's file; on such chips the tiny network takes many cores, on several chips."""
NET_OPTIONS = ("--timesteps", 3, "--target", "sim", "--quiet")
ZOO_OPTIONS = ("--target", "sim", "--quiet")
NIR_OPTIONS = ("--dt", 1, "--timesteps", 3, "--target", "sim", "--quiet")

compile_ = functools.partial(run_command, compile_command.main)
run = functools.partial(run_command, run_command_module.main)
verify = functools.partial(run_command, verify_command.main)
report = functools.partial(run_command, report_command.main)


# --- arrays


def npy(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """Samples as .npy: the array, its header or its bytes."""
    (folder / "x.npy").write_bytes(_array_file(rng, np.load(seeds.tiny.images)))
    return (_run_sim(seeds, folder / "x.npy"),)


def npz(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """Samples as .npz: members, their headers, the archive's bytes."""
    path = folder / "x.npz"
    member = _array_file(rng, np.load(seeds.tiny.images)) if rng.random() < 0.5 else seeds.tiny.images.read_bytes()
    kept = pick(rng, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(path, "w", kept) as archive:
        for name in pick(rng, (("images.npy",), ("a.npy", "images.npy"), ("images",), ("../x.npy",), ())):
            archive.writestr(name, member)
    if rng.random() < 0.6:
        path.write_bytes(damaged_bytes(rng, path.read_bytes()))
    return (_run_sim(seeds, path),)


def labels(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """True classes as .npy."""
    (folder / "y.npy").write_bytes(_array_file(rng, np.load(seeds.tiny.labels)))
    return (_run_sim(seeds, seeds.tiny.images, "--labels", folder / "y.npy"),)


def recording(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """A recording of an event camera, of any format: its bytes, and the options that say how it is binned."""
    name = pick(rng, list(WRITERS))
    path = folder / name
    events = some_events(int(rng.integers(1, 200)), (8, 8), int(10 ** rng.uniform(1, 6)), int(rng.integers(100)))
    if rng.random() < 0.3:
        wild = list(events)
        at = int(rng.integers(4))
        with np.errstate(all="ignore"):
            wild[at] = damaged_array(rng, wild[at])
        events = Recording(*wild)
    compression = int(rng.integers(5)) if name == "events.aedat4" and HAS_COMPRESSION else 0
    try:
        if compression:
            write_aedat4(path, events, compression)
        else:
            WRITERS[name](path, events)
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error):
        # no file of the format can hold such events
        WRITERS[name](path, some_events(50, (8, 8)))
    if path.suffix in (".h5", ".hdf5") and rng.random() < 0.5:
        _damage_hdf5(rng, path)
    elif rng.random() < 0.7:
        path.write_bytes(damaged_bytes(rng, path.read_bytes()))
    if rng.random() < 0.05:
        path = path.rename(folder / pick(rng, list(WRITERS)))
    sizes = pick(rng, ((), ("--sensor-size", "8x8"), ("--sensor-size", "34x34", "--keep-middle"), ("--pool", 3)))
    bins = pick(rng, ((), ("--bin-ms", 0.1), ("--bin-ms", 1e9), ("--bin-events", 7), ("--split-by", "number")))
    return (run(seeds.frames, "--input", path, "--backend", "sim", "--samples", 1, *sizes, *bins),)


HAS_COMPRESSION = all(importlib.util.find_spec(name) is not None for name in ("lz4", "zstandard"))


def _array_file(rng: Rng, array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    if rng.random() < 0.5:
        np.save(file, damaged_array(rng, array))
    else:
        np.save(file, array)
    data = file.getvalue()
    chance = rng.random()
    if chance < 0.3:
        length = int.from_bytes(data[8:10], "little")
        header = damaged_text(rng, data[10 : 10 + length].decode("latin1")).encode("utf-8", "surrogatepass")[:60_000]
        return data[:8] + len(header).to_bytes(2, "little") + header + data[10 + length :]
    return damaged_bytes(rng, data) if chance < 0.5 else data


def _run_sim(seeds: Seeds, samples: Path, *options: object) -> int:
    return run(seeds.tiny.build, "--input", samples, "--samples", 1, "--backend", "sim", *options)


# --- networks


def checkpoint(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """A checkpoint: its tensors, what lies beside them, its bytes, as .pt or .safetensors."""
    content = torch.load(seeds.tiny.model, weights_only=True)
    return (_compile_checkpoint(_damaged_checkpoint(rng, folder, content), folder, *seeds.tiny.arguments),)


def zoo_checkpoint(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """A checkpoint of another family: as ``checkpoint``, and its entry ``resformer`` of facts that no tensor tells."""
    content = torch.load(seeds.zoo, weights_only=True)
    if rng.random() < 0.4:
        content["resformer"] = damaged_tree(rng, content["resformer"])
    return (_compile_checkpoint(_damaged_checkpoint(rng, folder, content), folder),)


def _compile_checkpoint(path: Path, folder: Path, *arguments: object) -> int:
    return compile_(path, *arguments, "--target", "sim", "--quiet", "-o", folder / "build")


def _damaged_checkpoint(rng: Rng, folder: Path, content: dict[str, Any]) -> Path:
    """Write a damaged checkpoint; returns its path."""
    state = content["model"]
    chance = rng.random()
    if chance < 0.7:
        for _ in range(int(rng.integers(1, 4))):
            _damage_state(rng, state)
    path = folder / f"x.{pick(rng, ('pt', 'pt', 'pth', 'safetensors'))}"
    if path.suffix == ".safetensors":
        # a copy of each, since safetensors refuses tensors that share memory
        save_file({name: each.clone().contiguous() for name, each in state.items() if _has_values(each)}, path)
    else:
        if rng.random() < 0.3:
            content[str(pick(rng, TEXTS))[:1000]] = pick(rng, (*NUMBERS, [], {}, torch.zeros(2), None))
        old = bool(rng.random() < 0.2)
        torch.save(pick(rng, (content, content, state, {"net": state})), path, _use_new_zipfile_serialization=not old)
    if chance > 0.6:
        path.write_bytes(damaged_bytes(rng, path.read_bytes()))
    return path


def _has_values(found: object) -> bool:
    """Whether something is a tensor that holds its values one by one, and does not only say that it is large."""
    return isinstance(found, torch.Tensor) and not (found.is_sparse or found.is_meta or found.numel() > LARGE)


LARGE = 1 << 20
"""The most elements of a tensor or data set that is damaged; a larger one was damaged before and only states a size."""
OTHER_TYPES = (torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.complex64, torch.int64)


def _damage_state(rng: Rng, state: dict[str, Any]) -> None:
    name = pick(rng, list(state))
    tensor = state[name]
    if not _has_values(tensor):
        return
    one = tensor.reshape(-1)[:1]
    changes: Sequence[Callable[[], object]] = (
        lambda: tensor.to(pick(rng, OTHER_TYPES)),
        lambda: tensor * float(pick(rng, (0, -1, 1e30, 1e-30, float("nan"), float("inf")))),
        lambda: tensor.reshape(-1),
        lambda: tensor[None],
        lambda: tensor[..., :0] if tensor.ndim else tensor,
        lambda: one.expand(int(pick(rng, (10**3, 10**9, 2**40)))),
        lambda: tensor.to("meta"),
        lambda: tensor.to_sparse(),
        lambda: torch.cat([tensor, tensor]) if tensor.ndim else tensor,
        lambda: tensor.T.contiguous().T if tensor.ndim == 2 else tensor,
        lambda: pick(rng, (*NUMBERS, None, [], {}, "text")),
        lambda: torch.from_numpy(damaged_array(rng, tensor.numpy().copy())),
    )  # fmt: skip
    try:
        state[name] = pick(rng, changes)()
    except (RuntimeError, TypeError, ValueError, IndexError):
        del state[name]  # PyTorch makes no such change of this tensor, so it goes missing instead
    if rng.random() < 0.2:
        state[pick(rng, ("x", f"{name}.x", "module." + name, "\x1b[1m", "layers.99.0.conv.weight"))] = tensor


def nir_file(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """A NIR file: datasets, groups, links, or its bytes."""
    path = folder / "x.nir"
    shutil.copy(seeds.nir, path)
    _damage_hdf5(rng, path)
    return (compile_(path, *NIR_OPTIONS, "-o", folder / "build"),)


def net_file(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """A netx network: datasets, groups, links, or its bytes."""
    path = folder / "x.net"
    shutil.copy(seeds.net, path)
    _damage_hdf5(rng, path)
    return (compile_(path, *NET_OPTIONS, "-o", folder / "build"),)


def _damage_hdf5(rng: Rng, path: Path) -> None:
    if rng.random() < 0.4:
        path.write_bytes(damaged_bytes(rng, path.read_bytes()))
        return
    with h5py.File(path, "r+") as file:
        for _ in range(int(rng.integers(1, 4))):
            names: list[str] = []
            file.visit(names.append)
            if not names:  # everything was deleted
                return
            name = pick(rng, names)
            try:
                _damage_object(rng, file, name)
            except (OSError, RuntimeError, TypeError, ValueError, KeyError, UnicodeError):  # HDF5 refuses to write it
                continue


def _damage_object(rng: Rng, file: Any, name: str) -> None:
    found = file[name]
    change = rng.integers(13)
    if change < 4 and isinstance(found, h5py.Dataset) and (found.size or 0) < LARGE:
        value = found[()]
        del file[name]
        if isinstance(value, bytes):
            file[name] = pick(
                rng,
                (
                    b"LIF",
                    b"Conv2d",
                    b"",
                    b"\xff\xfe",
                    b"x" * 1000,
                    3,
                    *map(str.encode, ("IF", "CubaLIF", "conv", "dense_rec", "SDNN")),
                ),
            )
        else:
            file[name] = damaged_array(rng, np.asarray(value))
    elif change == 4:
        del file[name]
    elif change == 5:
        del file[name]
        file[name] = h5py.ExternalLink("/etc/passwd", "/x")
    elif change == 6:
        del file[name]
        file[name] = h5py.SoftLink("/node")
    elif change == 7 and isinstance(found, h5py.Group):
        found["again"] = file["/"]
    elif change == 8 and isinstance(found, h5py.Dataset):
        del file[name]
        file.create_dataset(name, tuple(int(each) for each in rng.integers(1, 2**12, 3)), "f8")
    elif change == 9 and isinstance(found, h5py.Dataset):
        del file[name]
        file.create_dataset(name, (20,), "u1", external=[("/etc/passwd", 0, 20)])
    elif change == 10 and isinstance(found, h5py.Dataset) and found.shape and 0 < found.size < LARGE:
        _damage_chunk(rng, file, name, found)
    elif change == 11:
        found.attrs["x"] = pick(rng, TEXTS)[:1000]
    else:
        file.move(name, f"{name}{pick(rng, ('x', '/y', ' ', '.'))}")


def _damage_chunk(rng: Rng, file: Any, name: str, found: Any) -> None:
    """Store an array in one compressed chunk, and give the chunk other bytes."""
    value, kind = found[()], found.dtype
    del file[name]
    made = file.create_dataset(
        name, data=value, dtype=kind, chunks=value.shape, compression=pick(rng, ("gzip", "lzf")), shuffle=True
    )
    mask, data = made.id.read_direct_chunk((0,) * value.ndim)
    zeros = bytes(int(2 ** rng.uniform(0, 28)))
    data = pick(rng, (damaged_bytes(rng, bytes(data)), zlib.compress(zeros, 9), bytes(10**5)))
    made.id.write_direct_chunk((0,) * value.ndim, data, int(rng.integers(4)) if rng.random() < 0.3 else mask)


# --- builds


def program(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """A program: its JSON, its tensors or its bytes; if both reference and sim run it, their results must be equal."""
    build = _build_but(seeds, folder, PROGRAM)
    metadata, tree, tensors = take_apart(seeds.tiny.build / PROGRAM)
    if rng.random() < 0.6:
        tree = damaged_tree(rng, tree) if rng.random() < 0.5 else _damaged_nodes(rng, tree)
    if rng.random() < 0.5:
        name = pick(rng, list(tensors))
        changed = damaged_array(rng, tensors[name])
        if changed.dtype.kind in "iufb" and changed.dtype.isnative:
            tensors[name] = np.ascontiguousarray(changed)
        else:
            del tensors[name]
    try:
        put_together(build / PROGRAM, metadata, tree, tensors)
    except (RecursionError, UnicodeError, KeyError, ValueError):  # such a program cannot be written
        return ()
    if rng.random() < 0.15:
        (build / PROGRAM).write_bytes(damaged_bytes(rng, (build / PROGRAM).read_bytes()))
    results = folder / "reference.npz", folder / "sim.npz"
    options = "--input", seeds.tiny.images, "--samples", 1
    statuses = tuple(run(build, *options, "--backend", path.stem, "-o", path) for path in results)
    if statuses == (0, 0):
        with np.load(results[0]) as wanted, np.load(results[1]) as found:
            if any(not np.array_equal(wanted[name], found[name]) for name in wanted.files):
                raise Wrong("sim and reference differ")
    return statuses


def _damaged_nodes(rng: Rng, tree: Any) -> Any:
    """The tree with damage in one node only: in its values, signal, shape or inputs."""
    node = pick(rng, tree["nodes"])
    part = pick(rng, [key for key in ("values", "signal", "shape", "inputs") if node.get(key)])
    node[part] = damaged_tree(rng, node[part])
    return tree


def report_json(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """A build's report."""
    build = _build_but(seeds, folder, "report.json")
    _damage_json(rng, seeds.tiny.build / "report.json", build / "report.json")
    return (_run_build(seeds, build), report(build, "-o", folder / "page.html"))


def placement_json(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """A build's placement: the tiny build's, or one with a chosen layout, which readers lay out again."""
    of = seeds.laid_out if rng.random() < 0.7 else seeds.tiny.build
    build = _build_but(seeds, folder, "placement.json", of)
    if of == seeds.laid_out and rng.random() < 0.6:
        content = json.loads((of / "placement.json").read_text(encoding="utf-8"))
        for _ in range(int(rng.integers(1, 4))):
            _damage_layout(rng, content)
        (build / "placement.json").write_text(json.dumps(content), encoding="utf-8")
    else:
        _damage_json(rng, of / "placement.json", build / "placement.json")
    return (
        _run_build(seeds, build, "--cost"),
        report(build, "-o", folder / "page.html"),
        run_command(_place, build),
    )


def _place(arguments: list[str]) -> int:
    """``resformer.load(build).place()``, as a command."""
    try:
        resformer.load(*arguments).place()
    except ResformerError as error:
        print(printable(str(error)), file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _damage_layout(rng: Rng, content: Any) -> None:
    """Change a layout: its tiles, its cores' places, or the chip's constants."""
    layer = pick(rng, content["layers"])
    placed = [core for each in content["layers"] for core in each["placed"]]
    chosen = rng.integers(10)
    if chosen < 3 and layer["tile"]:
        axis = int(rng.integers(len(layer["tile"])))
        near = [1, 2, 3, 4, 8, 16, 32, 2 * layer["tile"][axis], *layer["shape"], 2**31, 2**62]
        layer["tile"][axis] = pick(rng, near)
    elif chosen == 3:
        places = [(core["chip"], core["core"]) for core in placed]
        for core, index in zip(placed, rng.permutation(len(places)), strict=True):
            core["chip"], core["core"] = places[index]
    elif chosen == 4:
        pick(rng, placed)[pick(rng, ("chip", "core"))] = pick(rng, (0, 1, 5, 11, 12, 2**31, 2**62, 2**63 - 1))
    elif chosen == 5:
        layer["cores"] = pick(rng, (1, 2, layer["cores"] + 1, 2**62))
    elif chosen < 8:
        constants = content["chip"]["constants"]
        constant = constants[pick(rng, list(constants))]
        value = pick(rng, (0, 1, 2, 3, 0.5, 64, 1000, 2**20, 2**31 - 1, 2**62, 1e15, 1e-15, None))
        constant["value"], constant["range"] = value, pick(rng, (None, [value, value]))
    elif chosen == 8:
        content["layout"] = damaged_tree(rng, content["layout"])
    else:
        layer["placed"] = pick(rng, ([], layer["placed"] * 2, layer["placed"][:-1], placed, placed[:1] * 10_000))


def quantized(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """A build's quantized checkpoint."""
    build = _build_but(seeds, folder, "quantized.pt")
    content = torch.load(seeds.tiny.build / "quantized.pt", weights_only=True)
    chance = rng.random()
    if chance < 0.7:
        _damage_state(rng, content["model"])
    torch.save(content, build / "quantized.pt")
    if chance > 0.6:
        (build / "quantized.pt").write_bytes(damaged_bytes(rng, (build / "quantized.pt").read_bytes()))
    return (_verify_build(seeds, build),)


def network(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """A build's float network."""
    build = _build_but(seeds, folder, "network.nir")
    shutil.copy(seeds.tiny.build / "network.nir", build / "network.nir")
    _damage_hdf5(rng, build / "network.nir")
    return (_verify_build(seeds, build),)


def _build_but(seeds: Seeds, folder: Path, name: str, of: Path | None = None) -> Path:
    """A build that lacks the file ``name``; its other files are links to those of ``of``, or of the tiny build."""
    build = folder / "build"
    build.mkdir()
    for file in (of or seeds.tiny.build).iterdir():
        if file.name != name:
            (build / file.name).symlink_to(file)
    return build


def _run_build(seeds: Seeds, build: Path, *options: object) -> int:
    return run(build, "--input", seeds.tiny.images, "--samples", 1, "--backend", "sim", *options)


def _verify_build(seeds: Seeds, build: Path) -> int:
    return verify(build, "--input", seeds.tiny.images, "--samples", 1, "--backend", "sim", "--model", seeds.tiny.model)


# --- what stands beside a build


def chip(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """A chip's file."""
    text = (CHIPS / f"{pick(rng, ('loihi1', 'loihi2'))}.yaml").read_text(encoding="utf-8")
    chance = rng.random()
    if chance < 0.5:
        try:
            text = yaml.safe_dump(damaged_tree(rng, yaml.safe_load(text)), allow_unicode=True)
        except (RecursionError, UnicodeError):
            return ()
    elif chance < 0.8:
        text = damaged_text(rng, text)
    data = text.encode("utf-8", "surrogatepass")
    (folder / "chip.yaml").write_bytes(damaged_bytes(rng, data) if chance > 0.8 else data)
    return (_run_build(seeds, seeds.tiny.build, "--cost", "--chip", folder / "chip.yaml"),)


def verification_json(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """What resformer-verify --json wrote."""
    _damage_json(rng, seeds.verification, folder / "v.json")
    return (report(seeds.tiny.build, "--verify", folder / "v.json", "-o", folder / "page.html"),)


def cost_json(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """What resformer-run --cost --json wrote."""
    build, cost = pick(rng, ((seeds.tiny.build, seeds.cost), (seeds.laid_out, seeds.laid_out_cost)))
    _damage_json(rng, cost, folder / "c.json")
    return (report(build, "--cost", folder / "c.json", "-o", folder / "page.html"),)


def _damage_json(rng: Rng, good: Path, bad: Path) -> None:
    text = good.read_text(encoding="utf-8")
    chance = rng.random()
    if chance < 0.7:
        try:
            text = json.dumps(damaged_tree(rng, json.loads(text)))
        except (RecursionError, ValueError):
            text = "[" * 100_000
    elif chance < 0.85:
        text = damaged_text(rng, text)
    data = text.encode("utf-8", "surrogatepass")
    bad.write_bytes(damaged_bytes(rng, data) if chance > 0.85 else data)


def images(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """A folder of images in many formats, damaged or misnamed; sometimes a pipe, a link or a folder is among them."""
    inside = folder / "images"
    inside.mkdir()
    for index in range(int(rng.integers(1, 4))):
        mode = pick(rng, ("RGB", "L", "P", "RGBA", "1", "I;16", "CMYK", "LA", "F"))
        size = tuple(int(each) for each in rng.integers(1, 40, 2))
        picture = Image.new(mode, size)  # type: ignore[arg-type]
        file = io.BytesIO()
        try:
            picture.save(file, pick(rng, ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "ICO", "EPS", "PCX")))
        except (OSError, ValueError, KeyError):
            picture.convert("RGB").save(file, "PNG")
        data = file.getvalue()
        name = f"{index}.{pick(rng, ('png', 'jpg', 'jpeg', 'bmp', 'webp', 'gif', 'txt'))}"
        (inside / name).write_bytes(damaged_bytes(rng, data) if rng.random() < 0.7 else data)
    extra = rng.integers(12)
    if extra == 0:
        os.mkfifo(inside / "p.png")
    elif extra == 1:
        (inside / "again").symlink_to(".")
    elif extra == 2:
        (inside / "z.png").symlink_to("/dev/zero")
    elif extra == 3:
        (inside / "d.png").mkdir()
    resize = ("--resize",) if rng.random() < 0.5 else ()
    return (_run_sim(seeds, inside, *resize),)


def options(seeds: Seeds, rng: Rng, folder: Path) -> Statuses:
    """Options of the commands, with values that they may not accept."""
    values = (*map(str, NUMBERS), *(each for each in TEXTS if "\x00" not in each and "\ud800" not in each), str(folder))
    base: Mapping[str, tuple[Callable[..., int], Sequence[object], Sequence[str]]] = {
        "compile": (
            compile_,
            (seeds.tiny.model, *seeds.tiny.arguments, "--target", "sim", "-o", folder / "b", "--quiet"),
            ("--timesteps", "--input-size", "--weight-bits", "--layer-bits", "--input-scale-exp", "--chip", "--dt",
             "--mean", "--std", "--synapse-budget", "--neuron", "--stem-stride", "--calibration", "--weights-key"),
        ),
        "run": (
            run,
            (seeds.tiny.build, "--input", seeds.tiny.images, "--samples", 1, "--backend", "sim"),
            ("--mean", "--std", "--samples", "--labels", "--batch-size", "--device", "--chip", "--json", "--spread"),
        ),
        "verify": (
            verify,
            (seeds.tiny.build, "--input", seeds.tiny.images, "--samples", 1, "--backend", "sim"),
            ("--mean", "--std", "--samples", "--labels", "--batch-size", "--model", "--json"),
        ),
    }  # fmt: skip
    command, arguments, names = base[pick(rng, list(base))]
    added = [part for _ in range(int(rng.integers(1, 3))) for part in (pick(rng, names), pick(rng, values)[:2000])]
    home = Path.cwd()
    os.chdir(folder)  # a value may be the name of a file to write
    try:
        return (command(*arguments, *added),)
    finally:
        os.chdir(home)


KINDS: Mapping[str, tuple[float, Callable[[Seeds, Rng, Path], Statuses]]] = {
    "array .npy": (3, npy),
    "array .npz": (3, npz),
    "recording": (3, recording),
    "labels": (1, labels),
    "checkpoint": (2, checkpoint),
    "zoo checkpoint": (1, zoo_checkpoint),
    "NIR": (3, nir_file),
    "netx": (0.5, net_file),
    "program": (3, program),
    "quantized checkpoint": (0.5, quantized),
    "network of a build": (0.5, network),
    "report.json": (1, report_json),
    "placement.json": (1, placement_json),
    "chip": (2, chip),
    "verification": (2, verification_json),
    "cost": (2, cost_json),
    "images": (2, images),
    "options": (1, options),
}
"""For each kind of input: its weight in the random choice, and the function that damages and runs it."""
