"""Finds this processor's instructions for products of bytes and words, and the kernels of ``strips`` that use them.

LLVM aborts the process where it must compile an instruction that the processor lacks, so nothing that needs such
instructions is compiled unless they were found here. oneDNN's environment variable ONEDNN_MAX_CPU_ISA, which limits the
instructions that oneDNN uses, limits these kernels, too: with it, one machine can run what an older one would run.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.backends.sim.products import Compute, Kernel, KernelRefusedError, StripProduct
from resformer.compiler.backends.sim.widths import LANES, TILE_BYTES, TILE_ROWS, TILES
from resformer.compiler.ir.interval import INT32_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VNNI = ("avx512vnni", "avx512bw", "avx512vl")
AMX = ("amx-tile", "amx-int8", *VNNI)
WORDS = ("avx2",)
"""``VNNI``, ``AMX`` and ``WORDS`` are the instruction sets that each kind of kernel needs, by LLVM's names."""
EVERYTHING = ("", "ALL", "DEFAULT")
"""Values of ONEDNN_MAX_CPU_ISA that set no limit."""

ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA, SYS_ARCH_PRCTL = 0x1023, 18, 158
"""Linux on x86-64: the numbers of the system call by which a process asks for permission to use AMX's tiles."""


@functools.cache
def strip_kernels() -> tuple[Kernel[StripProduct], ...]:
    """The kernels that may compute the products of ``strips`` here, the fastest first; none without numba."""
    found = []
    if _has(AMX) and _may_use_tiles():
        found.append(_strip_kernel("product of bytes in tiles", shapes=tile_shapes()))
    if _has(VNNI):
        found.append(_strip_kernel("product of bytes in vectors"))
    if _has(WORDS):
        found.append(_strip_kernel("product of words in vectors", words=True))
    return tuple(found)


def events_pay() -> bool:
    """Whether adding weights only for spikes (``events``) is fastest here: with AVX2, but without VNNI."""
    return _has(WORDS) and not _has(VNNI)


def _strip_kernel(
    name: str, *, shapes: npt.NDArray[np.uint8] | None = None, words: bool = False
) -> Kernel[StripProduct]:
    return Kernel(name, INT32_MAX, functools.partial(_compiled, shapes=shapes, words=words))


def tile_shapes() -> npt.NDArray[np.uint8]:
    """The configuration of AMX in which all tiles have 16 rows of 64 bytes, (64,)."""
    shapes = np.zeros(64, np.uint8)
    shapes[0] = 1  # the palette
    shapes[16 : 16 + 2 * TILES : 2] = TILE_BYTES
    shapes[48 : 48 + TILES] = TILE_ROWS
    return shapes


def shapes_of(kernel: Kernel[StripProduct]) -> npt.NDArray[np.uint8] | None:
    """The configuration of a kernel's tiles, or None if the kernel uses no tiles."""
    make = kernel.make
    return make.keywords["shapes"] if isinstance(make, functools.partial) else None


def in_words(kernel: Kernel[StripProduct]) -> bool:
    """Whether a kernel multiplies words of 16 bits."""
    return isinstance(kernel.make, functools.partial) and kernel.make.keywords["words"]


def strip_depth(depth: int) -> int:
    """The bytes that two digits, or one word, for each of ``depth`` numbers take, as ``strips`` pads them."""
    return -(-2 * whole_lanes(depth) // TILE_BYTES) * TILE_BYTES


def whole_lanes(count: int) -> int:
    """``count`` rounded up to a multiple of a vector's lanes."""
    return -(-count // LANES) * LANES


@contextmanager
def compiling(what: str) -> Iterator[None]:
    """Turn numba's own errors into one that trials of kernels handle.

    Args:
        what: What is compiled, for the error's message.

    Raises:
        KernelRefusedError: numba cannot compile it: a version of LLVM may have the instructions under other names.
    """
    from numba.core.errors import NumbaError

    try:
        yield
    except NumbaError as error:
        raise KernelRefusedError(f"numba does not compile {what}: {error}") from error


def _compiled(_: StripProduct, shapes: npt.NDArray[np.uint8] | None, *, words: bool) -> Compute:
    from resformer.compiler.backends.sim import guarded_strips

    second = None if words else 0

    def compute(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        with compiling("a product of words" if words else "a product of bytes"):
            guarded_strips.multiply_all(shapes, second, left.numpy(), right.numpy(), out.numpy())
        return out

    return compute


@functools.cache
def _has(needed: Sequence[str]) -> bool:
    """Whether numba compiles for a processor with all needed instruction sets, and ONEDNN_MAX_CPU_ISA allows them."""
    if importlib.util.find_spec("numba") is None:
        return False
    from numba.core.registry import cpu_target

    # the attribute is not public: if a version of numba lacks it, assume none of these instruction sets
    features = str(getattr(cpu_target.target_context.codegen(), "_tm_features", "")).split(",")
    return all(f"+{each}" in features for each in needed) and allowed(needed)


def allowed(needed: Sequence[str]) -> bool:
    """Whether ONEDNN_MAX_CPU_ISA allows instruction sets, which are ``VNNI``, ``AMX`` or ``WORDS``."""
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if most in EVERYTHING:
        return True
    if needed is WORDS:
        return not most.startswith("SSE41") and most != "AVX"
    if needed is AMX:
        return "AMX" in most
    return most.startswith("AVX10") or (most.startswith("AVX512_CORE") and most != "AVX512_CORE")


def _may_use_tiles() -> bool:
    """Ask Linux for permission to use AMX's tiles; the permission holds for all threads of the process."""
    if sys.platform != "linux":
        return False
    ask = ctypes.CDLL(None, use_errno=True).syscall
    return int(ask(SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)) == 0
