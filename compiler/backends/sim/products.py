"""No library's kernel is trusted before it was tried: each product, its kernels, and the check of its sums.

A product is what a step asks of a kernel: a layer's synapses, or one of DSSA's products. The kernels that may compute
it are tried from the fastest to the slowest. For a trial, a kernel is made with random weights of the product's own
shape. It is run on this machine as it will run later: on a thread of the same kind, on values as large as they can be
and on random ones. Its results are checked in int64. The first kernel whose sums are right is taken, and a note says
what it replaces. Verdicts are kept for the process, so layers of one shape are tried once.

The check is Freivalds': y = W x holds row by row, and so r y = (r W) x for any r. It costs one output channel instead
of all. Our r are random and odd. An odd number times an error is never a multiple of 2^64, so a single wrong sum is
always found, even where int64 wraps; several wrong sums in one row cancel with a probability of one in 2^19. With
``self_check``, the same check follows every product of a run.
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
"""The random bits of the check's numbers, beside the sign and the lowest bit, which is always 1."""
CHECK_ELEMENTS = 1 << 18
"""The number of integers that the check holds at once; they fit the cache."""
TRIAL_EXPONENTS = 3
"""The weight exponents of a trial are below this."""
TRIAL_BIAS = 1000
"""The largest magnitude of a trial's biases."""
SIGNED = (np.int8, np.int16, np.int32, np.int64)
PATTERNS = 3
"""The number of kinds of images in a trial: all largest values, largest and least in turn, random values."""
STRIP_ROWS = 16
"""The number of positions in a strip of ``strips``."""
WEIGHT_PATTERNS = 8
"""The number of kinds of weights in a trial; each output has weights of one kind."""

Compute: TypeAlias = Callable[..., torch.Tensor]
"""A kernel that holds its weights: a function from what it reads to what it computes."""
IntArray: TypeAlias = npt.NDArray[np.signedinteger[Any]]
Trial: TypeAlias = "tuple[Product, tuple[torch.Tensor, ...]]"
"""A product with weights drawn for a trial, and the inputs to run it on."""

VERDICTS: dict[tuple[object, ...], str] = {}
"""The verdict on each kernel and shape tried in this process: ``RIGHT``, ``WRONG`` or ``ABSENT``."""
_TRYING = threading.Lock()
RIGHT, WRONG, ABSENT = "", "sums wrongly", "does not run"


def exact_below(dtype: torch.dtype) -> int:
    """The bound below which a float type holds every integer: that of float32, or of float64 for any other type."""
    return EXACT_IN_FLOAT32 if dtype is torch.float32 else EXACT_IN_FLOAT64


def digits_for(largest: int) -> int:
    """The number of digits to the base 256, from -128 to 127, that hold every integer of at most this magnitude."""
    digits = 1
    while largest > 127 * (256**digits - 1) // 255:
        digits += 1
    return digits


class KernelRefusedError(RuntimeError):
    """numba or Triton cannot compile a kernel of ours for this machine; another kernel takes its place."""


class Product(Protocol):
    """What a kernel is asked to compute."""

    @property
    def name(self) -> str:
        """The node's name, for notes."""
        ...

    @property
    def shown(self) -> str:
        """The product's size, for notes."""
        ...

    @property
    def key(self) -> tuple[object, ...]:
        """All that a kernel's choice of algorithm may depend on."""
        ...

    def trials(self, limit: int) -> Iterator[Trial]:
        """Draw weights and inputs so that no partial sum reaches the limit."""
        ...

    def is_right(self, inputs: Sequence[torch.Tensor], result: torch.Tensor) -> bool:
        """Whether all sums of a result are right."""
        ...


ProductT = TypeVar("ProductT", bound=Product)


@dataclass(frozen=True)
class Kernel(Generic[ProductT]):
    """One way to compute a product.

    Attributes:
        name: The kernel's name in notes.
        limit: The kernel's numbers hold every integer of a smaller magnitude.
        make: Makes a function that computes a given product.
    """

    name: str
    limit: int
    make: Callable[[ProductT], Callable[..., Any]]


class Products:
    """Tries kernels, and binds products to the fastest ones that sum rightly.

    Args:
        self_check: Whether to check every product of every run, too.

    Attributes:
        notes: Sentences about kernels that were replaced, in order: the keys of a dict whose values are all None.
    """

    def __init__(self, *, self_check: bool = False) -> None:
        self.self_check = self_check
        self.notes: dict[str, None] = {}

    def bind(self, product: ProductT, kernels: Sequence[Kernel[ProductT]]) -> Compute:
        """Make the first kernel that sums rightly, with the product's weights.

        Args:
            product: What to compute.
            kernels: The kernels to try, the fastest first.

        Raises:
            BackendFailedError: None of the kernels runs and sums rightly.
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
        """The first kernel that sums all the given products rightly, or None.

        Args:
            products: What to compute.
            kernels: The kernels to try, the fastest first.
            last: The name, for notes, of what replaces the kernels if all of them fail; None: nothing does.
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
        """Make the kernel that was chosen for a product; with ``self_check``, it checks its sums."""
        compute: Compute = kernel.make(product)
        return self._checked(product, kernel, compute) if self.self_check else compute

    def note(self, sentence: str) -> None:
        """Add a sentence to the notes, unless it is there already."""
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
    """What is wrong with a kernel for a product, or "" if nothing is; the kernel is tried if it was not yet."""
    key = (kernel.name, torch.get_num_threads(), *product.key)
    if key not in VERDICTS:
        with _TRYING:  # if several threads need one shape at once, one thread tries it
            if key not in VERDICTS:
                VERDICTS[key] = _try(product, kernel)
    return VERDICTS[key]


def _try(product: ProductT, kernel: Kernel[ProductT]) -> str:
    with torch.inference_mode():
        for drawn, inputs in product.trials(kernel.limit):
            try:
                made = kernel.make(drawn)(*inputs)  # type: ignore[arg-type]
            # Builds of PyTorch that lack a kernel raise any of these errors; KernelRefusedError is a RuntimeError. The
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
    """A convolution, or the part of it that makes some outputs; a dense layer reads images of one pixel.

    Kernels read (images, H, W, channels) and make (images * R * S, outputs).

    Attributes:
        name: The node's name.
        weight: Mantissas of the weights, (outputs, channels / groups, K_h, K_w).
        weight_exp: Exponents of the weights, (outputs,).
        bias: (outputs,).
        stride: (rows, columns).
        padding: The rows and columns of zeros on each side of an image.
        dilation: The distance between the kernel's taps, (rows, columns).
        groups: The number of blocks of channels that do not mix.
        images: The number of images: steps times samples.
        size: (H, W) of an image.
        dtype: The type of what is read; uint8 are spikes.
        reach: A bound on the magnitude of what is read.
        sum_dtype: A type that holds all partial sums exactly.
        out_dtype: The type of the result.
        device: Where the product is computed.
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
        """The number of channels that are read."""
        channels: int = self.weight.shape[1] * self.groups
        return channels

    @property
    def depth(self) -> int:
        """The number of products in a sum."""
        products: int = self.weight[0].size
        return products

    @property
    def kernel(self) -> tuple[int, int]:
        """(K_h, K_w)."""
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def window(self) -> Window:
        """The window that each output reads; where it is a patch, a reshape of the image gathers all taps."""
        return Window(self.kernel, self.stride, self.padding, self.dilation)

    @property
    def shown(self) -> str:
        """The product's size, for notes."""
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
        """Draw weights and images so that no partial sum reaches the limit."""
        rng = np.random.default_rng(self.depth)
        # types were chosen for the bounds of the real weights; drawn weights may be larger, and must fit these types
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
        """Whether all sums are right, checked by a random combination of the outputs at each position."""
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
        """The random r, (outputs,); the weights combined by r, (K_h, K_w, channels); the bias combined by r."""
        r = _odd_numbers(len(self.weight))
        whole = fixedpoint.scale_weight(self.weight, self.weight_exp).astype(np.int64)
        weighted = (whole * r[:, None, None, None]).reshape(self.groups, -1, *whole.shape[1:]).sum(axis=1)
        taps = torch.from_numpy(weighted.reshape(self.channels, *self.kernel)).permute(1, 2, 0).contiguous()
        return torch.from_numpy(r).to(self.device), taps.to(self.device), int((self.bias.astype(np.int64) * r).sum())


@dataclass(frozen=True, eq=False)
class HeadProducts:
    """One of DSSA's products for all heads of a block, over all steps and samples.

    Kernels read the gates, (steps, samples, positions, heads, depth), and y, (steps, samples, patches, heads, width).
    The first product (``transpose``) makes (steps, samples, positions, heads, patches); its depth is ``width``. The
    second product makes (steps, samples, positions, heads, width); its depth is the number of patches.

    Attributes:
        name: The node's name.
        gates: Shape of the gates.
        y: Shape of y.
        transpose: True for the first product, which transposes y; False for the second.
        reach: A bound on the magnitude of y.
        dtype: A type that holds y and all partial sums exactly.
        device: Where the product is computed.
        gate_reach: A bound on the gates, at most 255; they are spikes, or counts of spikes.
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
        """The product's size, for notes."""
        width = self.y[2] if self.transpose else self.y[4]
        return f"{self.gates[2]}x{self.gates[4]} by {self.gates[4]}x{width}"

    @property
    def key(self) -> tuple[object, ...]:
        """All that a kernel's choice of algorithm may depend on."""
        return self.gates, self.y, self.transpose, self.reach, self.gate_reach, self.dtype, str(self.device)

    def trials(self, limit: int) -> Iterator[Trial]:
        """Draw gates and y so that no partial sum reaches the limit."""
        rng = np.random.default_rng(self.gates[4])
        limit = min(limit, exact_below(self.dtype))
        reach = max(min(self.reach, (limit - 1) // (self.gates[4] * self.gate_reach)), 1)
        for turn in range(-(-PATTERNS // self.y[2])):
            gates = _draw_images(rng, self.gates, 0, self.gate_reach, turn).to(self.device, torch.uint8)
            # drawn with patches as the first axis, along which the patterns vary
            y = _draw_images(rng, (self.y[2], *self.y[:2], *self.y[3:]), -reach, reach, turn)
            yield self, (gates, y.permute(1, 2, 0, 3, 4).contiguous().to(self.device, self.dtype))

    def is_right(self, inputs: Sequence[torch.Tensor], result: torch.Tensor) -> bool:
        """Whether all sums are right, checked by a random combination of each row."""
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
    """A product of two int8 matrices into one of int32: of one head's spikes and digits of y, at one step.

    Kernels read (left, right, out) and fill out.

    Attributes:
        name: The node's name.
        left: Shape and strides of the spikes' matrix.
        right: Shape and strides of the digits' matrix.
    """

    name: str
    left: tuple[tuple[int, ...], tuple[int, ...]]
    right: tuple[tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, name: str, left: torch.Tensor, right: torch.Tensor) -> Int8Product:
        """The product of two matrices with the shapes and strides of these."""
        return cls(name, (tuple(left.shape), left.stride()), (tuple(right.shape), right.stride()))

    @property
    def shown(self) -> str:
        """The product's size, for notes."""
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
            # drawn with columns as the first axis, along which the patterns vary
            digits = _draw_images(rng, self.right[0][::-1], -high - (high == 127), high, turn).T
            right = torch.empty_strided(*self.right, dtype=torch.int8).copy_(digits.to(torch.int8))
            yield self, (left, right, torch.empty(self.left[0][0], self.right[0][1], dtype=torch.int32))

    def is_right(self, inputs: Sequence[torch.Tensor], result: torch.Tensor) -> bool:
        """Whether all sums are right, checked by a random combination of each row."""
        left, right, _ = inputs
        r = torch.from_numpy(_odd_numbers(right.shape[1]))
        return torch.equal(_dot(result, r), _dot(left, _dot(right, r)))


@dataclass(frozen=True, eq=False)
class StripProduct:
    """DSSA's product of a strip of 16 positions, at all steps: of bytes, or of words, in the layout of ``strips``.

    Kernels read (spikes, digits or words, out) and fill out.

    Attributes:
        name: The node's name.
        steps: T.
        depth: The depth of the sums, in bytes.
        columns: The columns of the result.
        words: Whether both matrices are of 16-bit words; otherwise of bytes.
    """

    name: str
    steps: int
    depth: int
    columns: int
    words: bool = False

    @property
    def shown(self) -> str:
        """The product's size, for notes."""
        return f"{STRIP_ROWS}x{self.terms} by {self.terms}x{self.columns}"

    @property
    def terms(self) -> int:
        """The number of products in a sum."""
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
            # drawn with columns as the first axis, along which the patterns vary
            digits = _draw_images(rng, (self.columns, self.terms), -high - (high == 127), high, turn).to(self._digit)
            neighbours = digits.view(self.columns, -1, 4 // digits.itemsize)
            packed = neighbours.transpose(0, 1).contiguous().view(torch.int32).squeeze(-1)
            right = torch.stack([packed.roll(t, 1) for t in range(self.steps)])
            yield self, (left.view(torch.uint8), right, torch.empty(*shape[:2], self.columns, dtype=torch.int32))

    def is_right(self, inputs: Sequence[torch.Tensor], result: torch.Tensor) -> bool:
        """Whether all sums are right, checked by a random combination of each row."""
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
    """Multiply integers (..., *shape) by int64 factors (*shape) and sum over these axes in int64, by plain loops."""
    if values.device.type == "cpu":
        # numpy widens and multiplies integers in plain loops of its own, and does not copy overlapping windows first
        axes = "kc"[-factors.ndim :]
        return torch.from_numpy(np.einsum(f"...{axes},{axes}->...", values.numpy(), factors.numpy()))
    return (values * factors).flatten(values.ndim - factors.ndim).sum(-1)


def _whole(sums: torch.Tensor) -> torch.Tensor | None:
    """Sums as integers, or None if a sum is not an integer, or is beyond the integers that sums are converted to."""
    if not sums.is_floating_point():
        return sums
    # float32 sums stay below 2^24, and turn into int32 four times as fast
    whole = sums.to(torch.int32 if sums.dtype is torch.float32 else torch.int64)
    return whole if torch.equal(whole.to(sums.dtype), sums) else None


@functools.cache
def _odd_numbers(count: int) -> npt.NDArray[np.int64]:
    """Random odd numbers, positive and negative, (count,)."""
    drawn = np.random.default_rng(count).integers(-(1 << R_BITS), 1 << R_BITS, count)
    return 2 * drawn + 1


def _draw_weights(
    rng: np.random.Generator, like: IntArray, budgets: npt.NDArray[np.int64], turn: int
) -> npt.NDArray[np.signedinteger[Any]]:
    """Draw weights: some rows of largest values, some of least values, the others random.

    The magnitudes of a row's weights add up to its budget at most. Of each eight rows, four spread their budget over
    all weights; the other four spend it on fewer, larger weights, and have zeros elsewhere.

    Args:
        rng: The source of random numbers.
        like: Weights whose shape and type are wanted.
        budgets: (outputs,): a bound on the sum of the magnitudes of each row's weights.
        turn: Shifts the kinds of weights among the rows.
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
    # the least number of an integer type has a larger magnitude than its largest
    least = np.where((most == info.max) & (budgets > most), -most - 1, -most)
    rows = rng.integers(least[:, None], most[:, None] + 1, (outputs, depth))
    rows = np.where((kind % 4 == 0)[:, None], most[:, None], np.where((kind % 4 == 1)[:, None], least[:, None], rows))
    kept = np.minimum(budgets // np.maximum(-least, 1), depth)
    if (kept < depth).any():
        rows *= rng.random((outputs, depth)).argsort(axis=1) < kept[:, None]
    return rows.reshape(like.shape).astype(like.dtype)


def _draw_images(rng: np.random.Generator, shape: tuple[int, ...], low: int, high: int, turn: int) -> torch.Tensor:
    """Draw integers (images, ...), of three kinds in turn: all ``high``; ``high`` and ``low`` alternating; random."""
    dtype = np.uint8 if (low, high) == (0, 1) else next(each for each in SIGNED if high <= np.iinfo(each).max)
    drawn = np.empty((shape[0], math.prod(shape[1:])), dtype)
    drawn[-turn % PATTERNS :: PATTERNS] = high
    mixed = drawn[(1 - turn) % PATTERNS :: PATTERNS]
    mixed[:, ::2], mixed[:, 1::2] = high, low
    random = drawn[(2 - turn) % PATTERNS :: PATTERNS]
    random[:] = rng.integers(low, high, random.shape, drawn.dtype, endpoint=True)
    return torch.from_numpy(drawn.reshape(shape))
