"""No library's kernel is trusted before it was tried: each product, its kernels, and the check of its sums.

A product is what a step asks of a library: a layer's synapses, one of DSSA's products. Kernels that may compute it
stand in order of their speed. Each is made with weights of the trial's own, of the very shape, and run on this machine
as it will run: on the same thread, on values as large as they can be and on random ones. What it makes is checked in
int64. The first kernel whose sums are right is taken, and a note says what it replaces. Verdicts are kept for the
process, so layers of one shape are tried once.

The check is Freivalds': y = W x holds row by row, and so r y = (r W) x for any r. It costs one output channel instead
of all. Our r are random and odd: an odd number times an error is never a multiple of 2^64, so a single wrong sum is
always found, even where int64 wraps; several in one row cancel by a chance of one in 2^19. With ``self_check`` the same
check follows every product of a run.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from resformer.compiler.backends.sim.frame import is_out_of_memory
from resformer.compiler.backends.sim.widths import HELD
from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.interval import EXACT_IN_FLOAT32, EXACT_IN_FLOAT64
from resformer.compiler.ir.window import Window
from resformer.errors import BackendFailedError

R_BITS = 19
"""How many bits, beside the lowest, the random numbers of the check have."""
CHECK_ELEMENTS = 1 << 18
"""How many integers the check holds at once: few enough for the cache."""
TRIAL_EXPONENTS = 3
"""A trial's weights have exponents below this."""
TRIAL_BIAS = 1000
"""How large the biases of a trial may be."""
SIGNED = (np.int8, np.int16, np.int32, np.int64)
PATTERNS = 3
"""Kinds of input that a trial has, an image each: all largest, largest and least in turn, random."""
STRIP_ROWS = 16
"""Positions of a strip, as ``strips`` has them."""
WEIGHT_PATTERNS = 8
"""Kinds of weights that a trial has, an output each."""

Compute: TypeAlias = Callable[..., torch.Tensor]
"""A kernel that holds its weights: what it reads to what it makes."""
IntArray: TypeAlias = npt.NDArray[np.signedinteger[Any]]
Trial: TypeAlias = "tuple[Product, tuple[torch.Tensor, ...]]"
"""A product with weights drawn for a trial, and what it reads."""

VERDICTS: dict[tuple[object, ...], str] = {}
"""What was found of kernels in this process: nothing to object to, or what is wrong with it."""
_TRYING = threading.Lock()
RIGHT, WRONG, ABSENT = "", "sums wrongly", "does not run"


def exact_below(dtype: torch.dtype) -> int:
    """Below it, a type of floats holds every integer."""
    return EXACT_IN_FLOAT32 if dtype is torch.float32 else EXACT_IN_FLOAT64


def digits_for(largest: int) -> int:
    """How many digits from -128 to 127 to the base 256 hold every integer of at most this magnitude."""
    digits = 1
    while largest > 127 * (256**digits - 1) // 255:
        digits += 1
    return digits


class KernelRefusedError(RuntimeError):
    """A compiler of ours, numba or Triton, cannot make a kernel for this machine; another kernel takes its place."""


class Product(Protocol):
    """What a kernel is asked for."""

    @property
    def name(self) -> str:
        """The node's, for notes."""
        ...

    @property
    def shown(self) -> str:
        """Its size, for notes."""
        ...

    @property
    def key(self) -> tuple[object, ...]:
        """All that a kernel's choice of algorithm may depend on."""
        ...

    def trials(self, limit: int) -> Iterator[Trial]:
        """Draw weights and values of which no partial sum reaches the limit."""
        ...

    def is_right(self, inputs: Sequence[torch.Tensor], result: torch.Tensor) -> bool:
        """Whether all sums of a result are right."""
        ...


ProductT = TypeVar("ProductT", bound=Product)


@dataclass(frozen=True)
class Kernel(Generic[ProductT]):
    """One way to compute a product.

    Attributes:
        name: What notes call it.
        limit: Below it, its numbers hold every integer.
        make: From a product to what computes it.
    """

    name: str
    limit: int
    make: Callable[[ProductT], Callable[..., Any]]


class Products:
    """Binds products to kernels that were tried.

    Args:
        self_check: Whether to check every product of every run, too.

    Attributes:
        notes: What was replaced, a sentence each, in order; the values say nothing.
    """

    def __init__(self, *, self_check: bool = False) -> None:
        self.self_check = self_check
        self.notes: dict[str, None] = {}

    def bind(self, product: ProductT, kernels: Sequence[Kernel[ProductT]]) -> Compute:
        """The first kernel that sums rightly, with the product's weights.

        Args:
            product: What to compute.
            kernels: The fastest first.

        Raises:
            BackendFailedError: All of them sum wrongly.
        """
        kernel = self.choose([product], kernels)
        if kernel is not None:
            return self.make(product, kernel)
        tried = ", ".join(f"{each.name} {_verdict(product, each)}" for each in kernels)
        raise BackendFailedError(
            f"{product.name}: this machine has no kernel for it ({product.shown}) that sums rightly: {tried}; "
            "use --device cpu or --backend reference"
        )

    def choose(
        self, products: Sequence[ProductT], kernels: Sequence[Kernel[ProductT]], last: str | None = None
    ) -> Kernel[ProductT] | None:
        """The first kernel that sums all of some products rightly, or None.

        Args:
            products: What to compute.
            kernels: The fastest first.
            last: What takes the place of all, for the notes; None: nothing does.
        """
        refused: list[tuple[ProductT, str, str]] = []
        chosen = None
        for kernel in kernels:
            wrong = [(each, kernel.name, _verdict(each, kernel)) for each in products if _verdict(each, kernel)]
            if not wrong:
                chosen = kernel
                break
            refused += wrong
        instead = last if chosen is None else chosen.name
        if instead is not None:
            for product, name, why in refused:
                self.note(f"{product.name}: this machine's {name} ({product.shown}) {why}; replaced by a {instead}")
        return chosen

    def make(self, product: ProductT, kernel: Kernel[ProductT]) -> Compute:
        """A product by a kernel that was chosen for it."""
        compute: Compute = kernel.make(product)
        return self._checked(product, kernel, compute) if self.self_check else compute

    def note(self, sentence: str) -> None:
        """Say once what differs from what would be fastest."""
        self.notes[sentence] = None

    def _checked(self, product: ProductT, kernel: Kernel[ProductT], compute: Compute) -> Compute:
        def checked(*inputs: torch.Tensor) -> torch.Tensor:
            result = compute(*inputs)
            if not product.is_right(inputs, result):
                raise BackendFailedError(
                    f"{product.name}: a {kernel.name} ({product.shown}) summed wrongly, though it was right when it "
                    "was tried; this machine's results cannot be trusted: use --backend reference, or another machine"
                )
            return result

        return checked


def _verdict(product: ProductT, kernel: Kernel[ProductT]) -> str:
    """What there is against a kernel; it is tried if that is not known yet."""
    key = (kernel.name, torch.get_num_threads(), *product.key)
    if key not in VERDICTS:
        with _TRYING:  # threads that meet one shape at once try it once
            if key not in VERDICTS:
                VERDICTS[key] = _try(product, kernel)
    return VERDICTS[key]


def _try(product: ProductT, kernel: Kernel[ProductT]) -> str:
    with torch.inference_mode():
        for drawn, inputs in product.trials(kernel.limit):
            try:
                made = kernel.make(drawn)(*inputs)  # type: ignore[arg-type]
            # Builds of PyTorch that lack a kernel say so by any of these; KernelRefusedError is a RuntimeError. Such a
            # kernel is replaced, and a note tells the user.
            except (AttributeError, NotImplementedError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise
                return ABSENT
            if not drawn.is_right(inputs, made):
                return WRONG
    return RIGHT


@dataclass(frozen=True, eq=False)
class Synapses:
    """A convolution's outputs, or a share of them; a dense layer is one of images of one pixel.

    Kernels read (images, H, W, channels) and make (images * R * S, outputs).

    Attributes:
        name: The node's.
        weight: (outputs, channels / groups, K_h, K_w), mantissas.
        weight_exp: (outputs,).
        bias: (outputs,).
        stride: (rows, columns).
        padding: Zeros around each image.
        dilation: Distance between the kernel's taps.
        groups: Blocks of channels that do not mix.
        images: How many: steps times samples.
        size: (H, W).
        dtype: Of what is read; uint8 are spikes.
        reach: A bound on what is read.
        sum_dtype: What holds all partial sums.
        out_dtype: What holds the result.
        device: Where.
    """

    name: str
    weight: IntArray
    weight_exp: IntArray
    bias: IntArray
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    images: int
    size: tuple[int, int]
    dtype: torch.dtype
    reach: int
    sum_dtype: torch.dtype
    out_dtype: torch.dtype
    device: torch.device

    @property
    def channels(self) -> int:
        """How many are read."""
        channels: int = self.weight.shape[1] * self.groups
        return channels

    @property
    def depth(self) -> int:
        """How many products a sum has."""
        products: int = self.weight[0].size
        return products

    @property
    def kernel(self) -> tuple[int, int]:
        """(K_h, K_w)."""
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def window(self) -> Window:
        """What each output reads; a patch makes it a matrix product of a reshaped image."""
        return Window(self.kernel, self.stride, self.padding, self.dilation)

    @property
    def shown(self) -> str:
        """Its size, for notes."""
        rows, columns = self.kernel
        grouped = f" in each of {self.groups} groups" if self.groups > 1 else ""
        return f"kernel {rows}x{columns}, {self.weight.shape[1]} channels{grouped}"

    @property
    def key(self) -> tuple[object, ...]:
        """All that a kernel's choice of algorithm may depend on."""
        window = self.stride, self.padding, self.dilation, self.groups, self.images, self.size
        types = self.weight.dtype, self.dtype, self.sum_dtype, self.out_dtype, str(self.device)
        return self.weight.shape, *window, *types, self.reach, bool(self.bias.any())

    def trials(self, limit: int) -> Iterator[Trial]:
        """Draw weights and images of which no partial sum reaches the limit."""
        rng = np.random.default_rng(self.depth)
        # bounds of the real weights chose the types; the drawn ones are larger, and must not be called wrong for that
        limit = min(limit, exact_below(self.sum_dtype))
        bias_max = min(TRIAL_BIAS, limit // 4) if self.bias.any() else 0
        exponents = 1 if self.reach << TRIAL_EXPONENTS >= limit else TRIAL_EXPONENTS
        reach = max(min(self.reach, limit - 1 - bias_max), 1)
        for turn in range(max(-(-PATTERNS // self.images), -(-WEIGHT_PATTERNS // len(self.weight)))):
            weight_exp = rng.integers(0, exponents, len(self.weight))
            budgets = (limit - 1 - bias_max) // reach >> weight_exp
            drawn = replace(
                self,
                weight=_draw_weights(rng, self.weight, budgets, turn),
                weight_exp=weight_exp.astype(self.weight_exp.dtype),
                bias=rng.integers(-bias_max, bias_max + 1, len(self.bias)).astype(self.bias.dtype),
                out_dtype=self.sum_dtype,
            )
            shape = (self.images, *self.size, self.channels)
            low = 0 if self.dtype is torch.uint8 else -reach
            yield drawn, (_draw_images(rng, shape, low, reach, turn).to(self.device, self.dtype),)

    def is_right(self, inputs: Sequence[torch.Tensor], result: torch.Tensor) -> bool:
        """Whether all sums are right, by a random sum of the outputs of each position."""
        (image,) = inputs
        r, taps, bias = self._combined
        rows, columns = self.padding
        (over, across), (down, along) = self.stride, self.dilation
        made = self.window.targets(self.size)
        by_image = result.reshape(self.images, made[0] * made[1], len(r))
        at_once = max(CHECK_ELEMENTS // max(image[0].numel(), by_image[0].numel()), 1)
        for part, sums in zip(torch.split(image, at_once), torch.split(by_image, at_once), strict=True):
            whole = _whole(sums)
            if whole is None:
                return False
            whole_image = part.to(torch.int64) if part.is_floating_point() else part
            padded = F.pad(whole_image, (0, 0, columns, columns, rows, rows)).contiguous()
            image_step, row_step, column_step, _ = padded.stride()
            shape = len(part), *made, *taps.shape[1:]
            strides = image_step, over * row_step, across * column_step, along * column_step, 1
            wanted = sum(
                (_dot(padded.as_strided(shape, strides, row * down * row_step), each) for row, each in enumerate(taps)),
                start=torch.tensor(bias),
            )
            if not torch.equal(_dot(whole, r), wanted.reshape(len(part), -1)):
                return False
        return True

    @functools.cached_property
    def _combined(self) -> tuple[torch.Tensor, torch.Tensor, int]:
        """r, and what r makes of the weights, (K_h, K_w, channels), and of the bias."""
        r = _odd_numbers(len(self.weight))
        whole = fixedpoint.scale_weight(self.weight, self.weight_exp).astype(np.int64)
        weighted = (whole * r[:, None, None, None]).reshape(self.groups, -1, *whole.shape[1:]).sum(axis=1)
        taps = torch.from_numpy(weighted.reshape(self.channels, *self.kernel)).permute(1, 2, 0).contiguous()
        return torch.from_numpy(r).to(self.device), taps.to(self.device), int((self.bias.astype(np.int64) * r).sum())


@dataclass(frozen=True, eq=False)
class HeadProducts:
    """One of DSSA's products for all heads of a block, over all steps and samples.

    Kernels read the gates, (steps, samples, positions, heads, depth), and y, (steps, samples, patches, heads, width),
    and make (steps, samples, positions, heads, patches) if ``transpose``, for which depth is width; else
    (..., width), for which depth is the number of patches.

    Attributes:
        name: The node's.
        gates: Shape of the gates.
        y: Shape of y.
        transpose: Which of the two products.
        reach: A bound on y.
        dtype: What holds y and all partial sums.
        device: Where.
        gate_reach: A bound on the gates, at most 255: spikes, or counts of them.
    """

    name: str
    gates: tuple[int, ...]
    y: tuple[int, ...]
    transpose: bool
    reach: int
    dtype: torch.dtype
    device: torch.device
    gate_reach: int = 1

    @property
    def shown(self) -> str:
        """Its size, for notes."""
        width = self.y[2] if self.transpose else self.y[4]
        return f"{self.gates[2]}x{self.gates[4]} by {self.gates[4]}x{width}"

    @property
    def key(self) -> tuple[object, ...]:
        """All that a kernel's choice of algorithm may depend on."""
        return self.gates, self.y, self.transpose, self.reach, self.gate_reach, self.dtype, str(self.device)

    def trials(self, limit: int) -> Iterator[Trial]:
        """Draw gates and a y of which no partial sum reaches the limit."""
        rng = np.random.default_rng(self.gates[4])
        limit = min(limit, exact_below(self.dtype))
        reach = max(min(self.reach, (limit - 1) // (self.gates[4] * self.gate_reach)), 1)
        for turn in range(-(-PATTERNS // self.y[2])):
            gates = _draw_images(rng, self.gates, 0, self.gate_reach, turn).to(self.device, torch.uint8)
            # patches first: patterns vary from one to the next
            y = _draw_images(rng, (self.y[2], *self.y[:2], *self.y[3:]), -reach, reach, turn)
            yield self, (gates, y.permute(1, 2, 0, 3, 4).contiguous().to(self.device, self.dtype))

    def is_right(self, inputs: Sequence[torch.Tensor], result: torch.Tensor) -> bool:
        """Whether all sums are right, by a random sum over each row."""
        gates, y = inputs
        r = torch.from_numpy(_odd_numbers(result.shape[-1])).to(self.device)
        for t in range(len(result)):
            for each, gate, factor in zip(
                result[t], gates[t if len(gates) > 1 else 0], y[t if len(y) > 1 else 0], strict=True
            ):
                whole = _whole(each)
                if whole is None:
                    return False
                # (heads, depth)
                factor = factor.to(torch.int64)
                combined = (factor * r[:, None, None]).sum(0) if self.transpose else (factor * r).sum(-1).T
                if not torch.equal((whole * r).sum(-1), (gate * combined).sum(-1)):
                    return False
        return True


@dataclass(frozen=True, eq=False)
class Int8Product:
    """A product of two int8 matrices into a third of int32: a head's, at one step, of one digit of y or of several.

    Kernels read (left, right, out) and fill out.

    Attributes:
        name: The node's.
        left: Shape and strides of the spikes' matrix.
        right: Shape and strides of the digits'.
    """

    name: str
    left: tuple[tuple[int, ...], tuple[int, ...]]
    right: tuple[tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, name: str, left: torch.Tensor, right: torch.Tensor) -> Int8Product:
        """The product of two matrices like these."""
        return cls(name, (tuple(left.shape), left.stride()), (tuple(right.shape), right.stride()))

    @property
    def shown(self) -> str:
        """Its size, for notes."""
        (rows, depth), (_, columns) = self.left[0], self.right[0]
        return f"{rows}x{depth} by {depth}x{columns}"

    @property
    def key(self) -> tuple[object, ...]:
        """All that a kernel's choice of algorithm may depend on."""
        return self.left, self.right

    def trials(self, limit: int) -> Iterator[Trial]:
        """Draw spikes and digits."""
        rng = np.random.default_rng(self.left[0][1])
        high = min(127, (limit - 1) // self.left[0][1])
        for turn in range(-(-PATTERNS // min(self.left[0][0], self.right[0][1]))):
            left = torch.empty_strided(*self.left, dtype=torch.int8).copy_(
                _draw_images(rng, self.left[0], 0, 1, turn).to(torch.int8)
            )
            # columns first: patterns vary from one to the next
            digits = _draw_images(rng, self.right[0][::-1], -high - (high == 127), high, turn).T
            right = torch.empty_strided(*self.right, dtype=torch.int8).copy_(digits.to(torch.int8))
            yield self, (left, right, torch.empty(self.left[0][0], self.right[0][1], dtype=torch.int32))

    def is_right(self, inputs: Sequence[torch.Tensor], result: torch.Tensor) -> bool:
        """Whether all sums are right, by a random sum over each row."""
        left, right, _ = inputs
        r = torch.from_numpy(_odd_numbers(right.shape[1]))
        return torch.equal(_dot(result, r), _dot(left, _dot(right, r)))


@dataclass(frozen=True, eq=False)
class StripProduct:
    """DSSA's product of a strip of 16 positions, at all steps: bytes by digits, or words, as ``strips`` lays them out.

    Kernels read (spikes, digits or words, out) and fill out.

    Attributes:
        name: The node's.
        steps: T.
        depth: Of the sums, in bytes.
        columns: Of the result.
        words: Whether both are words of 16 bits.
    """

    name: str
    steps: int
    depth: int
    columns: int
    words: bool = False

    @property
    def shown(self) -> str:
        """Its size, for notes."""
        return f"{STRIP_ROWS}x{self.terms} by {self.terms}x{self.columns}"

    @property
    def terms(self) -> int:
        """How many products a sum has."""
        return self.depth // 2 if self.words else self.depth

    @property
    def key(self) -> tuple[object, ...]:
        """All that a kernel's choice of algorithm may depend on."""
        return self.steps, self.depth, self.columns, self.words

    def trials(self, limit: int) -> Iterator[Trial]:
        """Draw spikes and digits, or words."""
        rng = np.random.default_rng(self.depth)
        most, largest = (1, HELD) if self.words else (255, 127)
        high = min(largest, (limit - 1) // (most * self.terms))
        shape = self.steps, STRIP_ROWS, self.terms
        for turn in range(PATTERNS):
            left = _draw_images(rng, shape, 0, most, turn).to(torch.int16 if self.words else torch.uint8)
            # columns first: patterns vary from one to the next
            digits = _draw_images(rng, (self.columns, self.terms), -high - (high == 127), high, turn).to(self._digit)
            neighbours = digits.view(self.columns, -1, 4 // digits.itemsize)
            packed = neighbours.transpose(0, 1).contiguous().view(torch.int32).squeeze(-1)
            right = torch.stack([packed.roll(t, 1) for t in range(self.steps)])
            yield self, (left.view(torch.uint8), right, torch.empty(*shape[:2], self.columns, dtype=torch.int32))

    def is_right(self, inputs: Sequence[torch.Tensor], result: torch.Tensor) -> bool:
        """Whether all sums are right, by a random sum over each row."""
        left, right, _ = inputs
        r = torch.from_numpy(_odd_numbers(self.columns))
        for spikes, packed, sums in zip(left.view(torch.int16) if self.words else left, right, result, strict=True):
            digits = packed.unsqueeze(-1).view(self._digit).transpose(1, 2).reshape(self.terms, self.columns)
            if not torch.equal(_dot(sums, r), _dot(spikes, _dot(digits, r))):
                return False
        return True

    @property
    def _digit(self) -> torch.dtype:
        return torch.int16 if self.words else torch.int8


def _dot(values: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Integers (..., *shape) times int64 of that shape, summed over it in int64: plain loops, no library's product."""
    if values.device.type == "cpu":
        # numpy widens integers and multiplies them in loops of its own, and does not copy windows first
        axes = "kc"[-factors.ndim :]
        return torch.from_numpy(np.einsum(f"...{axes},{axes}->...", values.numpy(), factors.numpy()))
    return (values * factors).flatten(values.ndim - factors.ndim).sum(-1)


def _whole(sums: torch.Tensor) -> torch.Tensor | None:
    """Sums as integers, or None where one is no integer, or none that its type counts without a gap."""
    if not sums.is_floating_point():
        return sums
    # float32 sums stay below 2^24, and turn into int32 four times as fast
    whole = sums.to(torch.int32 if sums.dtype is torch.float32 else torch.int64)
    return whole if torch.equal(whole.to(sums.dtype), sums) else None


@functools.cache
def _odd_numbers(count: int) -> npt.NDArray[np.int64]:
    """Random odd numbers, of either sign."""
    drawn = np.random.default_rng(count).integers(-(1 << R_BITS), 1 << R_BITS, count)
    return 2 * drawn + 1


def _draw_weights(
    rng: np.random.Generator, like: IntArray, budgets: npt.NDArray[np.int64], turn: int
) -> npt.NDArray[np.signedinteger[Any]]:
    """Draw weights of a shape and type: all largest, all least, or random; as many as a row's budget allows.

    Every second four rows spread their budget over all weights, the others spend it on the largest.
    """
    outputs, depth = len(like), like[0].size
    kind = (np.arange(outputs) + turn) % WEIGHT_PATTERNS
    info = np.iinfo(like.dtype)
    if int(budgets.min()) >= -info.min * depth:
        whole = rng.integers(info.min, info.max, (outputs, depth), like.dtype, endpoint=True)
        whole[kind % 4 == 0], whole[kind % 4 == 1] = info.max, info.min
        return whole.reshape(like.shape)
    spread = kind >= WEIGHT_PATTERNS // 2
    most = np.minimum(np.where(spread, np.maximum(budgets // depth, 1), budgets), info.max)
    # the least number of a type has a magnitude of its own
    least = np.where((most == info.max) & (budgets > most), -most - 1, -most)
    rows = rng.integers(least[:, None], most[:, None] + 1, (outputs, depth))
    rows = np.where((kind % 4 == 0)[:, None], most[:, None], np.where((kind % 4 == 1)[:, None], least[:, None], rows))
    kept = np.minimum(budgets // np.maximum(-least, 1), depth)
    if (kept < depth).any():
        rows *= rng.random((outputs, depth)).argsort(axis=1) < kept[:, None]
    return rows.reshape(like.shape).astype(like.dtype)


def _draw_images(rng: np.random.Generator, shape: tuple[int, ...], low: int, high: int, turn: int) -> torch.Tensor:
    """Draw integers (images, ...): of each three images one of the largest, one of largest and least, one at random."""
    dtype = np.uint8 if (low, high) == (0, 1) else next(each for each in SIGNED if high <= np.iinfo(each).max)
    drawn = np.empty((shape[0], math.prod(shape[1:])), dtype)
    drawn[-turn % PATTERNS :: PATTERNS] = high
    mixed = drawn[(1 - turn) % PATTERNS :: PATTERNS]
    mixed[:, ::2], mixed[:, 1::2] = high, low
    random = drawn[(2 - turn) % PATTERNS :: PATTERNS]
    random[:] = rng.integers(low, high, random.shape, drawn.dtype, endpoint=True)
    return torch.from_numpy(drawn.reshape(shape))
