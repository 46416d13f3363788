"""Sixteen numbers at once, for numba: one vector register of AVX-512, several of narrower ones.

numba leaves it to LLVM to find loops that vectors can run. LLVM then uses registers of half the width that AVX-512
processors have, and potentials go through memory at every step. Here vectors are explicit: numba's functions compute
with a type of 16 lanes. Lanes are float32, int32, or the truth of a comparison. LLVM splits vectors that a processor's
registers do not hold, so these operations run wherever numba does. The products in ``tiles`` are instructions of some
processors only and must not be compiled on others; ``byte_products.strip_kernels`` knows which a processor has.

Nothing here checks bounds: ``guarded_loops``, ``guarded_strips`` and ``guarded_events`` do, once a call.
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
    """LLVM's type of a vector of 16 elements."""
    return ir.VectorType(element, LANES)


class Lanes(types.Type):
    """Numba's type of 16 numbers.

    Args:
        name: The type's name in messages.
        element: LLVM's type of one number.
    """

    def __init__(self, name: str, element: ir.Type) -> None:
        self.element = element
        super().__init__(name=f"Lanes({name})")


FLOATS = Lanes("float32", _F32)
INTEGERS = Lanes("int32", _I32)
CHOICES = Lanes("choice", _I1)


@register_model(Lanes)
class _LanesModel(PrimitiveModel):  # type: ignore[misc]
    """Tells numba that LLVM holds lanes as a vector."""

    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, vector(lanes.element))


# --- memory


def address(context: Any, builder: Any, array_type: Any, array: Any, at: Any, element: ir.Type) -> Any:
    """A pointer to element ``at`` of a contiguous array, as a pointer to ``element``."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), ir.PointerType(element))


def _align(instruction: Any, array_type: Any) -> Any:
    """Promise LLVM no more alignment than numpy guarantees, that of one element."""
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
    """Load 16 neighbours of an array of float32 or int32, from element ``at`` on; zeros where a mask is false."""
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
    """Write 16 neighbours of an array of float32 or int32, from element ``at`` on; only those where a mask is true."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        array_type, _, lanes_type, mask_type = signature.args
        where = address(context, builder, array_type, arguments[0], arguments[1], vector(lanes_type.element))
        _write(builder, array_type, where, arguments[2], mask_type, arguments[3])
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes, mask), codegen


@intrinsic  # type: ignore[untyped-decorator]
def store_choices(typing: Any, array: Any, at: Any, choices: Any, value: Any, mask: Any) -> tuple[Any, Codegen]:
    """Write ``value`` where choices are true, else 0, to 16 neighbouring integers; only those where a mask is true."""
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
    """A mask that is true in the first ``count`` lanes."""

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


def _first_of_floats_if(compare: str) -> Callable[..., Any]:
    """The first operand where the comparison holds, the second elsewhere."""
    return lambda builder, a, b: builder.select(builder.fcmp_ordered(compare, a, b), a, b)


def _first_of_integers_if(compare: str) -> Callable[..., Any]:
    """The first operand where the comparison holds, the second elsewhere."""
    return lambda builder, a, b: builder.select(builder.icmp_signed(compare, a, b), a, b)


plus = _of_two(lambda builder, a, b: builder.fadd(a, b), lambda builder, a, b: builder.add(a, b), None, "a + b.")
times = _of_two(lambda builder, a, b: builder.fmul(a, b), lambda builder, a, b: builder.mul(a, b), None, "a times b.")
lesser = _of_two(_first_of_floats_if("<"), _first_of_integers_if("<"), None, "The lesser of a and b.")
greater = _of_two(_first_of_floats_if(">"), _first_of_integers_if(">"), None, "The greater of a and b.")
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
    "Whether a and b differ.",
)


@intrinsic  # type: ignore[untyped-decorator]
def truncated(typing: Any, a: Any) -> tuple[Any, Codegen]:
    """Floats without their fractions: rounded toward zero."""

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
    """a where ``choices`` is true, b elsewhere."""
    return a(CHOICES, a, a), lambda context, builder, signature, arguments: builder.select(*arguments)


@intrinsic  # type: ignore[untyped-decorator]
def counted(typing: Any, count: Any, choices: Any, mask: Any) -> tuple[Any, Codegen]:
    """``count``, one more in the lanes where ``choices`` and the mask, if there is one, are true."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        count, choices, mask = arguments
        if signature.args[2] != types.none:
            choices = builder.and_(choices, mask)
        return builder.sub(count, builder.sext(choices, vector(_I32)))

    return INTEGERS(INTEGERS, CHOICES, mask), codegen


@intrinsic  # type: ignore[untyped-decorator]
def total(typing: Any, count: Any) -> tuple[Any, Codegen]:
    """The sum of all lanes of integers, int64."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        each = [builder.extract_element(arguments[0], ir.Constant(_I32, lane)) for lane in range(LANES)]
        whole = ir.Constant(_I64, 0)
        for lane in each:
            whole = builder.add(whole, builder.sext(lane, _I64))
        return whole

    return types.int64(INTEGERS), codegen


@intrinsic  # type: ignore[untyped-decorator]
def nearest(typing: Any, a: Any) -> tuple[Any, Codegen]:
    """Floats rounded to the nearest whole numbers, as int32."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        function = ir.FunctionType(vector(_F32), [vector(_F32)])
        rounded = builder.call(builder.module.declare_intrinsic(f"llvm.rint.v{LANES}f32", fnty=function), arguments)
        return builder.fptosi(rounded, vector(_I32))

    return INTEGERS(FLOATS), codegen


@intrinsic  # type: ignore[untyped-decorator]
def four_bytes(typing: Any, a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Codegen]:
    """The lowest bytes of four integers packed into one integer, the first as its lowest byte."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        whole = ir.Constant(vector(_I32), None)
        for place, each in enumerate(arguments):
            low = builder.and_(each, ir.Constant(vector(_I32), [255] * LANES))
            whole = builder.or_(whole, builder.shl(low, ir.Constant(vector(_I32), [8 * place] * LANES)))
        return whole

    return INTEGERS(INTEGERS, INTEGERS, INTEGERS, INTEGERS), codegen


@intrinsic  # type: ignore[untyped-decorator]
def two_words(typing: Any, a: Any, b: Any) -> tuple[Any, Codegen]:
    """The lowest 16 bits of two integers packed into one integer, the first as its lower half."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        low, high = arguments
        low = builder.and_(low, ir.Constant(vector(_I32), [0xFFFF] * LANES))
        return builder.or_(low, builder.shl(high, ir.Constant(vector(_I32), [16] * LANES)))

    return INTEGERS(INTEGERS, INTEGERS), codegen


@intrinsic  # type: ignore[untyped-decorator]
def store_low_bits(typing: Any, array: Any, at: Any, lanes: Any, mask: Any) -> tuple[Any, Codegen]:
    """Write integers, cut to the width of an array's elements, to 16 neighbours; only to those where a mask is true."""
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
"""A table that :func:`list_eight` reads: for each byte, the places of its set bits, then zeros, (256, 8)."""


@intrinsic  # type: ignore[untyped-decorator]
def spiking(typing: Any, array: Any, at: Any) -> tuple[Any, Codegen]:
    """A bit for each of 16 neighbours of an array of integers, set where it is not zero; the first is the lowest."""
    whole = vector(ir.IntType(array.dtype.bitwidth))

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        where = address(context, builder, signature.args[0], arguments[0], arguments[1], whole)
        there = _align(builder.load(where), signature.args[0])
        spikes = builder.icmp_signed("!=", there, ir.Constant(whole, None))
        return builder.zext(builder.bitcast(spikes, _I16), _I64)

    return types.int64(array, types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def list_eight(typing: Any, places: Any, bits: Any, first: Any, out: Any, at: Any) -> tuple[Any, Codegen]:
    """Write the places of a byte's set bits, and return their number.

    Eight numbers are always written; those after the places of the set bits mean nothing.

    Args:
        typing: Numba's typing context.
        places: ``PLACES``.
        bits: The byte.
        first: What is added to each place.
        out: uint16: the array to write.
        at: Where in ``out`` the first number is written.
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
    """Load 16 neighbours of an array of uint16, as int32."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        where = address(context, builder, signature.args[0], arguments[0], arguments[1], vector(_I16))
        return builder.zext(builder.load(where, align=2), vector(_I32))

    return INTEGERS(array, types.intp), codegen
