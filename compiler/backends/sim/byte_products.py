"""What instructions this processor has for products of bytes and words, and the kernels of ``strips`` that use them.

LLVM aborts the process where it must compile an instruction that it may not use, so the compiled loops ask here first.
oneDNN's variable ONEDNN_MAX_CPU_ISA, which tells it what instructions to do without, tells these kernels, too: one
variable makes a machine try what another would do.
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
"""LLVM's names of what a kernel needs."""
EVERYTHING = ("", "ALL", "DEFAULT")
"""Of oneDNN's variable: no limit."""

ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA, SYS_ARCH_PRCTL = 0x1023, 18, 158
"""Linux on x86-64: how a process asks to use tiles."""


@functools.cache
def strip_kernels() -> tuple[Kernel[StripProduct], ...]:
    """What may compute the products of ``strips``, the fastest first; none without numba."""
    found = []
    if _has(AMX) and _may_use_tiles():
        found.append(_strip_kernel("product of bytes in tiles", shapes=tile_shapes()))
    if _has(VNNI):
        found.append(_strip_kernel("product of bytes in vectors"))
    if _has(WORDS):
        found.append(_strip_kernel("product of words in vectors", words=True))
    return tuple(found)


def events_pay() -> bool:
    """Whether to add weights for spikes alone (``events``): where vectors do not multiply bytes fast."""
    return _has(WORDS) and not _has(VNNI)


def _strip_kernel(
    name: str, *, shapes: npt.NDArray[np.uint8] | None = None, words: bool = False
) -> Kernel[StripProduct]:
    return Kernel(name, INT32_MAX, functools.partial(_compiled, shapes=shapes, words=words))


def tile_shapes() -> npt.NDArray[np.uint8]:
    """What configures all tiles as 16 rows of 64 bytes, (64,)."""
    shapes = np.zeros(64, np.uint8)
    shapes[0] = 1  # the palette
    shapes[16 : 16 + 2 * TILES : 2] = TILE_BYTES
    shapes[48 : 48 + TILES] = TILE_ROWS
    return shapes


def shapes_of(kernel: Kernel[StripProduct]) -> npt.NDArray[np.uint8] | None:
    """What a kernel's tiles are configured with, or None if it uses none."""
    make = kernel.make
    return make.keywords["shapes"] if isinstance(make, functools.partial) else None


def in_words(kernel: Kernel[StripProduct]) -> bool:
    """Whether a kernel multiplies words of 16 bits."""
    return isinstance(kernel.make, functools.partial) and kernel.make.keywords["words"]


def strip_depth(depth: int) -> int:
    """How many bytes two digits of so many have, or so many words, as ``strips`` pads them."""
    return -(-2 * whole_lanes(depth) // TILE_BYTES) * TILE_BYTES


def whole_lanes(count: int) -> int:
    """Up to a multiple of a vector's lanes."""
    return -(-count // LANES) * LANES


@contextmanager
def compiling(what: str) -> Iterator[None]:
    """Turn numba's own errors into one that whoever tries kernels knows.

    Raises:
        KernelRefusedError: numba does not compile it: a version of LLVM may have the instructions under other names.
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
    """Whether numba compiles for a processor with all of these."""
    if importlib.util.find_spec("numba") is None:
        return False
    from numba.core.registry import cpu_target

    # not public: a numba without it is taken to have none of these
    features = str(getattr(cpu_target.target_context.codegen(), "_tm_features", "")).split(",")
    return all(f"+{each}" in features for each in needed) and allowed(needed)


def allowed(needed: Sequence[str]) -> bool:
    """Whether oneDNN's variable leaves a kernel its instructions."""
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if most in EVERYTHING:
        return True
    if needed is WORDS:
        return not most.startswith("SSE41") and most != "AVX"
    if needed is AMX:
        return "AMX" in most
    return most.startswith("AVX10") or (most.startswith("AVX512_CORE") and most != "AVX512_CORE")


def _may_use_tiles() -> bool:
    """Ask Linux to let this process use tiles; it keeps the answer for all threads."""
    if sys.platform != "linux":
        return False
    ask = ctypes.CDLL(None, use_errno=True).syscall
    return int(ask(SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)) == 0
