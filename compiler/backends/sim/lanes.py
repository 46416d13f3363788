"""Sixteen numbers at once, for numba: one vector register of AVX-512, several of narrower ones.

numba leaves it to LLVM to find loops that vectors can run, in registers of half the width that these processors have,
and with potentials that go through memory at every step. Here the vectors are said: a type of 16 lanes, in which
numba's functions are written like others. Lanes are float32, int32, or the truth of a comparison. LLVM splits what a
processor's registers do not hold, so this runs wherever numba does; the products in ``tiles`` are instructions of some
processors, and must not be compiled elsewhere (``strip_kernels`` says where).

Nothing here looks at bounds: ``guarded_loops`` and ``guarded_strips`` do, once a call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.core.datamodel.models import PrimitiveModel
from numba.core.extending import register_model
from numba.extending import intrinsic

from resformer.compiler.backends.sim.widths import LANES

_F32, _I1, _I8, _I16, _I32, _I64 = ir.FloatType(), *(ir.IntType(bits) for bits in (1, 8, 16, 32, 64))

Codegen: TypeAlias = Callable[[Any, Any, Any, tuple[Any, ...]], Any]


def vector(element: ir.Type) -> ir.VectorType:
    """16 of them."""
    return ir.VectorType(element, LANES)


class Lanes(types.Type):
    """Numba's type of 16 numbers.

    Args:
        name: What messages call it.
        element: LLVM's type of one of them.
    """

    def __init__(self, name: str, element: ir.Type) -> None:
        self.element = element
        super().__init__(name=f"Lanes({name})")


FLOATS = Lanes("float32", _F32)
INTEGERS = Lanes("int32", _I32)
CHOICES = Lanes("choice", _I1)


@register_model(Lanes)
class _LanesModel(PrimitiveModel):  # type: ignore[misc]
    """How LLVM holds lanes."""

    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, vector(lanes.element))


# --- memory


def address(context: Any, builder: Any, array_type: Any, array: Any, at: Any, element: ir.Type) -> Any:
    """Where an element of a contiguous array is."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), ir.PointerType(element))


def _align(instruction: Any, array_type: Any) -> Any:
    """Promise no more than what numpy does."""
    instruction.align = max(array_type.dtype.bitwidth // 8, 1)
    return instruction


def _masked(builder: Any, kind: str, whole: ir.VectorType, arguments: list[Any], array_type: Any, mask: Any) -> Any:
    """LLVM's load or store of some of the lanes."""
    pointer = ir.PointerType(whole)
    align = ir.Constant(_I32, max(array_type.dtype.bitwidth // 8, 1))
    element = f"v{LANES}{'f32' if whole.element == _F32 else f'i{whole.element.width}'}"
    name = f"llvm.masked.{kind}.{element}.p0"
    if kind == "load":
        function = ir.FunctionType(whole, [pointer, _I32, vector(_I1), whole])
        arguments = [*arguments, align, mask, ir.Constant(whole, None)]
    else:
        function = ir.FunctionType(ir.VoidType(), [whole, pointer, _I32, vector(_I1)])
        arguments = [*arguments, align, mask]
    return builder.call(builder.module.declare_intrinsic(name, fnty=function), arguments)


@intrinsic  # type: ignore[untyped-decorator]
def load(typing: Any, array: Any, at: Any, mask: Any) -> tuple[Any, Codegen]:
    """16 neighbours of an array of float32 or int32, from element ``at`` on; where a mask is false, zeros."""
    lanes = {types.float32: FLOATS, types.int32: INTEGERS}[array.dtype]

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        whole = vector(lanes.element)
        where = address(context, builder, signature.args[0], arguments[0], arguments[1], whole)
        if signature.args[2] == types.none:
            return _align(builder.load(where), signature.args[0])
        return _masked(builder, "load", whole, [where], signature.args[0], arguments[2])

    return lanes(array, types.intp, mask), codegen


@intrinsic  # type: ignore[untyped-decorator]
def store(typing: Any, array: Any, at: Any, lanes: Any, mask: Any) -> tuple[Any, Codegen]:
    """Write 16 neighbours of an array of float32 or int32, or those where a mask is true."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        array_type, _, lanes_type, mask_type = signature.args
        where = address(context, builder, array_type, arguments[0], arguments[1], vector(lanes_type.element))
        _write(builder, array_type, where, arguments[2], mask_type, arguments[3])
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes, mask), codegen


@intrinsic  # type: ignore[untyped-decorator]
def store_choices(typing: Any, array: Any, at: Any, choices: Any, value: Any, mask: Any) -> tuple[Any, Codegen]:
    """Write ``value`` where choices are true, and 0 elsewhere, to 16 integers, or to those where a mask is true."""
    element = ir.IntType(array.dtype.bitwidth)

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        array_type, mask_type = signature.args[0], signature.args[4]
        where = address(context, builder, array_type, arguments[0], arguments[1], vector(element))
        written = splat(builder, element, builder.trunc(arguments[3], element))
        chosen = builder.select(arguments[2], written, ir.Constant(vector(element), None))
        _write(builder, array_type, where, chosen, mask_type, arguments[4])
        return context.get_dummy_value()

    return types.void(array, types.intp, choices, types.int64, mask), codegen


def _write(builder: Any, array_type: Any, where: Any, value: Any, mask_type: Any, mask: Any) -> None:
    if mask_type == types.none:
        _align(builder.store(value, where), array_type)
    else:
        _masked(builder, "store", value.type, [value, where], array_type, mask)


# --- arithmetic


def splat(builder: Any, element: ir.Type, value: Any, lanes: int = LANES) -> Any:
    """One value in all lanes."""
    nothing = ir.Constant(ir.VectorType(element, lanes), ir.Undefined)
    single = builder.insert_element(nothing, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(single, nothing, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


@intrinsic  # type: ignore[untyped-decorator]
def floats(typing: Any, value: Any) -> tuple[Any, Codegen]:
    """A float32 in all lanes."""
    return FLOATS(types.float32), lambda context, builder, signature, arguments: splat(builder, _F32, *arguments)


@intrinsic  # type: ignore[untyped-decorator]
def integers(typing: Any, value: Any) -> tuple[Any, Codegen]:
    """An int32 in all lanes."""
    return INTEGERS(types.int32), lambda context, builder, signature, arguments: splat(builder, _I32, *arguments)


@intrinsic  # type: ignore[untyped-decorator]
def first_lanes(typing: Any, count: Any) -> tuple[Any, Codegen]:
    """True in so many lanes, from the first on."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        order = ir.Constant(vector(_I32), [*range(LANES)])
        return builder.icmp_signed("<", order, splat(builder, _I32, builder.trunc(arguments[0], _I32)))

    return CHOICES(types.int64), codegen


def _of_two(on_floats: Callable[..., Any], on_integers: Callable[..., Any], result: Lanes | None, doc: str) -> Any:
    """An operation on lanes of one type."""

    def operation(typing: Any, a: Any, b: Any) -> tuple[Any, Codegen]:
        build = on_floats if a == FLOATS else on_integers
        return (result or a)(a, a), lambda context, builder, signature, arguments: build(builder, *arguments)

    operation.__doc__ = doc
    return intrinsic(operation)


def _minimum(compare: str) -> Callable[..., Any]:
    return lambda builder, a, b: builder.select(builder.fcmp_ordered(compare, a, b), a, b)


def _minimum_of_integers(compare: str) -> Callable[..., Any]:
    return lambda builder, a, b: builder.select(builder.icmp_signed(compare, a, b), a, b)


plus = _of_two(lambda builder, a, b: builder.fadd(a, b), lambda builder, a, b: builder.add(a, b), None, "a + b.")
times = _of_two(lambda builder, a, b: builder.fmul(a, b), lambda builder, a, b: builder.mul(a, b), None, "a b.")
lesser = _of_two(_minimum("<"), _minimum_of_integers("<"), None, "The lesser of both.")
greater = _of_two(_minimum(">"), _minimum_of_integers(">"), None, "The greater of both.")
exceeds = _of_two(
    lambda builder, a, b: builder.fcmp_ordered(">", a, b),
    lambda builder, a, b: builder.icmp_signed(">", a, b),
    CHOICES,
    "Whether a > b.",
)
equals = _of_two(
    lambda builder, a, b: builder.fcmp_ordered("==", a, b),
    lambda builder, a, b: builder.icmp_signed("==", a, b),
    CHOICES,
    "Whether a = b.",
)
differs = _of_two(
    lambda builder, a, b: builder.fcmp_unordered("!=", a, b),
    lambda builder, a, b: builder.icmp_signed("!=", a, b),
    CHOICES,
    "Whether they differ.",
)


@intrinsic  # type: ignore[untyped-decorator]
def truncated(typing: Any, a: Any) -> tuple[Any, Codegen]:
    """Without the fraction."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        function = ir.FunctionType(vector(_F32), [vector(_F32)])
        return builder.call(builder.module.declare_intrinsic(f"llvm.trunc.v{LANES}f32", fnty=function), arguments)

    return FLOATS(FLOATS), codegen


@intrinsic  # type: ignore[untyped-decorator]
def as_floats(typing: Any, a: Any) -> tuple[Any, Codegen]:
    """Integers as float32."""
    return FLOATS(INTEGERS), lambda context, builder, signature, arguments: builder.sitofp(*arguments, vector(_F32))


@intrinsic  # type: ignore[untyped-decorator]
def chosen(typing: Any, choices: Any, a: Any, b: Any) -> tuple[Any, Codegen]:
    """a where true, b elsewhere."""
    return a(CHOICES, a, a), lambda context, builder, signature, arguments: builder.select(*arguments)


@intrinsic  # type: ignore[untyped-decorator]
def counted(typing: Any, count: Any, choices: Any, mask: Any) -> tuple[Any, Codegen]:
    """Integers, one more where true; where a mask is false, as they were."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        count, choices, mask = arguments
        if signature.args[2] != types.none:
            choices = builder.and_(choices, mask)
        return builder.sub(count, builder.sext(choices, vector(_I32)))

    return INTEGERS(INTEGERS, CHOICES, mask), codegen


@intrinsic  # type: ignore[untyped-decorator]
def total(typing: Any, count: Any) -> tuple[Any, Codegen]:
    """The sum of integers over the lanes."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        each = [builder.extract_element(arguments[0], ir.Constant(_I32, lane)) for lane in range(LANES)]
        whole = ir.Constant(_I64, 0)
        for lane in each:
            whole = builder.add(whole, builder.sext(lane, _I64))
        return whole

    return types.int64(INTEGERS), codegen


@intrinsic  # type: ignore[untyped-decorator]
def nearest(typing: Any, a: Any) -> tuple[Any, Codegen]:
    """The nearest whole numbers, as int32."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        function = ir.FunctionType(vector(_F32), [vector(_F32)])
        rounded = builder.call(builder.module.declare_intrinsic(f"llvm.rint.v{LANES}f32", fnty=function), arguments)
        return builder.fptosi(rounded, vector(_I32))

    return INTEGERS(FLOATS), codegen


@intrinsic  # type: ignore[untyped-decorator]
def four_bytes(typing: Any, a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Codegen]:
    """The lowest bytes of four integers as one, the first lowest."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        whole = ir.Constant(vector(_I32), None)
        for place, each in enumerate(arguments):
            low = builder.and_(each, ir.Constant(vector(_I32), [255] * LANES))
            whole = builder.or_(whole, builder.shl(low, ir.Constant(vector(_I32), [8 * place] * LANES)))
        return whole

    return INTEGERS(INTEGERS, INTEGERS, INTEGERS, INTEGERS), codegen


@intrinsic  # type: ignore[untyped-decorator]
def two_words(typing: Any, a: Any, b: Any) -> tuple[Any, Codegen]:
    """The lower 16 bits of two integers as one, the first lower."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        low, high = arguments
        low = builder.and_(low, ir.Constant(vector(_I32), [0xFFFF] * LANES))
        return builder.or_(low, builder.shl(high, ir.Constant(vector(_I32), [16] * LANES)))

    return INTEGERS(INTEGERS, INTEGERS), codegen


@intrinsic  # type: ignore[untyped-decorator]
def store_low_bits(typing: Any, array: Any, at: Any, lanes: Any, mask: Any) -> tuple[Any, Codegen]:
    """Write as many of the lowest bits of integers as 16 of an array's hold, or to those where a mask is true."""
    element = ir.IntType(array.dtype.bitwidth)

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        array_type, mask_type = signature.args[0], signature.args[3]
        where = address(context, builder, array_type, arguments[0], arguments[1], vector(element))
        _write(builder, array_type, where, builder.trunc(arguments[2], vector(element)), mask_type, arguments[3])
        return context.get_dummy_value()

    return types.void(array, types.intp, INTEGERS, mask), codegen


# --- lists of spikes


def _places() -> npt.NDArray[np.uint16]:
    places = np.zeros((256, 8), np.uint16)
    for byte in range(256):
        found = [place for place in range(8) if byte >> place & 1]
        places[byte, : len(found)] = found
    return places


PLACES = _places()
"""Of each byte, the places of the bits that are set, then zeros: what :func:`list_eight` reads."""


@intrinsic  # type: ignore[untyped-decorator]
def spiking(typing: Any, array: Any, at: Any) -> tuple[Any, Codegen]:
    """Which of 16 neighbours of an array of integers are not zero, a bit each, the first lowest."""
    whole = vector(ir.IntType(array.dtype.bitwidth))

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        where = address(context, builder, signature.args[0], arguments[0], arguments[1], whole)
        there = _align(builder.load(where), signature.args[0])
        spikes = builder.icmp_signed("!=", there, ir.Constant(whole, None))
        return builder.zext(builder.bitcast(spikes, _I16), _I64)

    return types.int64(array, types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def list_eight(typing: Any, places: Any, bits: Any, first: Any, out: Any, at: Any) -> tuple[Any, Codegen]:
    """Write eight numbers, of which the first are the places of the bits that are set; returns how many are.

    Args:
        typing: Numba's.
        places: ``PLACES``.
        bits: A byte.
        first: What is added to each place.
        out: uint16.
        at: Where they belong.
    """
    eight = ir.VectorType(_I16, 8)

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        places, bits, first, out, at = arguments
        row = builder.mul(bits, ir.Constant(_I64, 8))
        places = builder.load(address(context, builder, signature.args[0], places, row, eight), align=2)
        made = builder.add(places, splat(builder, _I16, builder.trunc(first, _I16), 8))
        builder.store(made, address(context, builder, signature.args[3], out, at, eight), 2)
        count = builder.module.declare_intrinsic("llvm.ctpop", [_I64])
        return builder.call(count, [bits])

    return types.int64(places, types.int64, types.int64, out, types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def load_places(typing: Any, array: Any, at: Any) -> tuple[Any, Codegen]:
    """16 neighbours of an array of uint16, as int32."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        where = address(context, builder, signature.args[0], arguments[0], arguments[1], vector(_I16))
        return builder.zext(builder.load(where, align=2), vector(_I32))

    return INTEGERS(array, types.intp), codegen
