"""A checkpoint file's content, read without running any code of it and without believing the sizes that it declares."""

import contextlib
import io
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import BinaryIO, Literal

import torch
from safetensors.torch import load_file

from resformer.errors import FileFormatError
from resformer.models.archive import open_archive, require_one_reading
from resformer.models.boundary import brief, require_regular
from resformer.models.gate import RESAVE, STAND_INS, look
from resformer.models.limits import LARGEST_PICKLE, LARGEST_SAFETENSORS_HEADER, allowed, quote, require_within

FileFormat = Literal["PyTorch", "safetensors"]

HDF5 = b"\x89HDF\r\n"
"""The first bytes of an HDF5 file; NIR and netx store networks in HDF5."""
OLD_PICKLES = 5
"""The number of pickles at the beginning of a file of PyTorch before 1.6: a magic number, a version, facts about the
machine, the content, the storages' keys."""


def read(path: Path) -> tuple[object, FileFormat]:
    """Return a file's content and its format; the format is recognised by the content, not by the file's name.

    Tensors are on the CPU and inside their storages. Numbers, text and containers beside them are kept; NumPy's scalars
    become plain numbers, and other objects become empty stand-ins.

    Raises:
        FileFormatError: the file cannot be read, would execute code, declares more than it holds, or is damaged.
    """
    try:
        size = require_regular(path, named="the checkpoint file inside it")
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        raise FileFormatError("no such file") from None
    except OSError as error:
        raise FileFormatError(f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL byte
        raise FileFormatError(f"no path of a file ({brief(error)})") from error
    # safetensors begins with the length of a JSON object, in 8 bytes, and then that object.
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and header < size:
        require_within(header, LARGEST_SAFETENSORS_HEADER, "its header has {} bytes")
        try:
            return load_file(path, device="cpu"), "safetensors"
        except Exception as error:  # the header's JSON, types or sizes are wrong
            raise FileFormatError(f"damaged safetensors file ({brief(error)}); copy or save it again") from error
    if head.startswith(HDF5):
        raise FileFormatError(
            "not a checkpoint but an HDF5 file; name it so that it ends in .nir if it is a NIR network, in .net if "
            "it is one of lava-dl's netx"
        )
    if not head.startswith((b"PK", b"\x80")):
        raise FileFormatError(
            f"not a checkpoint: it begins with {head!r}, where a PyTorch file begins with b'PK' or b'\\x80'; "
            "was it downloaded completely, and is it the right file?"
        )
    return _read_pickled(path, zipped=head.startswith(b"PK\x03\x04"), size=size), "PyTorch"


def _read_pickled(path: Path, *, zipped: bool, size: int) -> object:
    try:
        # The file is given open, since newer versions of torch.load would look at the ending of a path.
        with warnings.catch_warnings(), path.open("rb") as file, _stand_ins():
            warnings.simplefilter("ignore")  # the errors below say what PyTorch warns of here
            _check_archive(file, size) if zipped else _check_old_file(file, size)
            file.seek(0)
            return torch.load(file, weights_only=True, map_location="cpu")
    except FileFormatError:
        raise
    except pickle.UnpicklingError as error:
        called = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"loading it would execute code ({quote(called[1])})" if called else "it is damaged"
        raise FileFormatError(f"refused: {what}, which tensors do not need; if you trust it, {RESAVE}") from error
    except Exception as error:  # a damaged archive or pickle can raise anything: KeyError, EOFError, struct.error …
        raise FileFormatError(
            f"truncated or damaged, or no PyTorch checkpoint ({brief(error)}); copy it again, or {RESAVE}"
        ) from error


def _stand_ins() -> contextlib.AbstractContextManager[object]:
    """Let PyTorch's reader make stand-ins for objects that people keep beside weights; PyTorch before 2.5 cannot."""
    safe_globals = getattr(torch.serialization, "safe_globals", None)
    return contextlib.nullcontext() if safe_globals is None else safe_globals(list(STAND_INS.values()))


def _check_archive(file: BinaryIO, size: int) -> None:
    """Refuse a zip archive whose members are larger than the file, or whose pickle does not pass ``look``."""
    archive = open_archive(file)
    require_one_reading(file, archive)
    infos = archive.infolist()
    members = {info.filename: info for info in infos}
    root = infos[0].filename.partition("/")[0] if infos else ""
    if f"{root}/constants.pkl" in members:
        raise FileFormatError(f"is TorchScript, a program, where a checkpoint is expected; {RESAVE}")
    if f"{root}/data.pkl" not in members:
        raise FileFormatError(f"no PyTorch checkpoint, but an archive of other files; {RESAVE}")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise FileFormatError(
                f"member {quote(info.filename)} is compressed or encrypted, as PyTorch stores none; unpack it, "
                f"and {RESAVE}"
            )
    declared = sum(info.file_size for info in infos)
    if declared > size:
        raise FileFormatError(f"damaged: its members declare {declared} bytes, but it has {size}; copy it again")
    storages = look(io.BytesIO(_member(file, members[f"{root}/data.pkl"])))
    for key, expected in storages.items():
        member = members.get(f"{root}/data/{key}")
        if member is None or member.file_size != expected:
            found = "is missing" if member is None else f"has {member.file_size} bytes"
            raise FileFormatError(f"storage {quote(key)} {found}, where {expected} are declared; copy it again")


def _member(file: BinaryIO, info: zipfile.ZipInfo) -> bytes:
    """Return a stored member's bytes; Python's reader demands a checksum, which PyTorch can be told to leave out."""
    require_within(info.file_size, LARGEST_PICKLE, "its pickled part has {} bytes")
    file.seek(info.header_offset)
    *_, name, extra = struct.unpack("<4s5H3L2H", file.read(30))
    file.seek(name + extra, io.SEEK_CUR)
    return file.read(info.file_size)


def _check_old_file(file: BinaryIO, size: int) -> None:
    """Refuse a file of PyTorch before 1.6 whose pickles do not pass ``look``, or declare more bytes than it has."""
    with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=file, mode="r:"):
        raise FileFormatError(f"is a tar archive, as PyTorch wrote before 0.1.10; {RESAVE}")
    file.seek(0)
    stream = io.BytesIO(file.read(allowed(LARGEST_PICKLE)))
    declared = 0
    for _ in range(OLD_PICKLES):
        declared += sum(look(stream).values())
    if declared > size:
        raise FileFormatError(
            f"truncated or damaged: its tensors declare {declared} bytes, but it has {size}; copy it again"
        )
