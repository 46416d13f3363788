"""Products into int32, for numba: of bytes by AVX-512's VNNI and the tiles of AMX, of 16-bit words by AVX2.

Only some processors have these instructions. LLVM aborts the process where it must compile an instruction that the
processor lacks, so ``byte_products`` finds out first which ones it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from resformer.compiler.backends.sim.lanes import Codegen, address, splat, vector
from resformer.compiler.backends.sim.widths import LANES, ROW_BYTES, ROWS_AT_ONCE, WORD_LANES

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F32, _VOID = ir.FloatType(), ir.VoidType()


def _add_bytes(builder: Any, sums: Any, a: Any, b: Any) -> Any:
    kind = ir.FunctionType(sums.type, [sums.type] * 3)
    dot = builder.module.declare_intrinsic("llvm.x86.avx512.vpdpbusd.512", fnty=kind)
    return builder.call(dot, [sums, a, b])


def _add_words(builder: Any, sums: Any, a: Any, b: Any) -> Any:
    words = ir.VectorType(_I16, 2 * sums.type.count)
    multiply = builder.module.declare_intrinsic("llvm.x86.avx2.pmadd.wd", fnty=ir.FunctionType(sums.type, [words] * 2))
    return builder.add(sums, builder.call(multiply, [builder.bitcast(each, words) for each in (a, b)]))


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def dot_bytes(
    typing: Any, rows: Any, columns: Any, a: Any, a_at: Any, a_step: Any, b: Any, b_at: Any, b_step: Any, steps: Any,
    c: Any, c_at: Any, c_step: Any,
) -> tuple[Any, Codegen]:  # fmt: skip
    """A block of a product of uint8 by int8, summed in registers by VNNI.

    Args:
        typing: Numba's typing context.
        rows: Rows of the block, a literal.
        columns: Columns of the block, in registers of 16 int32, a literal; rows times columns must fit the registers.
        a: uint8; row r starts at byte ``a_at + r * a_step``.
        a_at: Where the first row of a starts.
        a_step: The distance between rows of a.
        b: int32; each holds four bytes of one column that are neighbours in depth.
        b_at: Where the first column's first four bytes are.
        b_step: The distance in b from four bytes to the next four of the same column.
        steps: The depth in bytes, divided by four.
        c: int32; row r starts at ``c_at + r * c_step``.
        c_at: Where the first row of c starts.
        c_step: The distance between rows of c.
    """
    count, width = rows.literal_value, columns.literal_value

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        _, _, a, a_at, a_step, b, b_at, b_step, steps, c, c_at, c_step = arguments
        a_type, b_type, c_type = (signature.args[index] for index in (2, 5, 9))
        sums = [_zeros(builder, vector(_I32), width) for _ in range(count)]
        with cgutils.for_range(builder, steps) as loop:
            b_row = builder.add(b_at, builder.mul(loop.index, b_step))
            taps = _registers(context, builder, b_type, b, b_row, vector(_I32), width)
            a_four = builder.add(a_at, builder.mul(loop.index, ir.Constant(_I64, 4)))
            for row in range(count):
                at = builder.add(a_four, builder.mul(a_step, ir.Constant(_I64, row)))
                four = builder.load(address(context, builder, a_type, a, at, _I32), align=1)
                spikes = splat(builder, _I32, four)
                for held, tap in zip(sums[row], taps, strict=True):
                    builder.store(_add_bytes(builder, builder.load(held), spikes, tap), held)
        for row in range(count):
            at = builder.add(c_at, builder.mul(c_step, ir.Constant(_I64, row)))
            _write(context, builder, c_type, c, at, sums[row])
        return context.get_dummy_value()

    place = types.intp
    return types.void(rows, columns, a, place, place, b, place, place, place, c, place, place), codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def add_pairs(
    typing: Any, columns: Any, a: Any, a_at: Any, b: Any, b_at: Any, b_step: Any, listed: Any, count: Any, c: Any,
    c_at: Any,
) -> tuple[Any, Codegen]:  # fmt: skip
    """A part of a row of a product of int16, summed in registers of AVX2 over the listed pairs of its depth only.

    Args:
        typing: Numba's typing context.
        columns: Columns of the part, in registers of 8 int32, a literal.
        a: int32: a row's pairs of int16; a pair's two products must have a sum that fits int32.
        a_at: Where the row's first pair is.
        b: int32; each is a pair of int16 of one column that are neighbours in depth.
        b_at: Where the first column's first pair is.
        b_step: The distance in b from a pair to the next pair of the same column.
        listed: uint16: the numbers of the pairs to add; the pairs of a that are not listed are zeros.
        count: The number of listed pairs.
        c: int32: where the sums are written.
        c_at: Where the first sum is written.
    """
    width, register = columns.literal_value, ir.VectorType(_I32, WORD_LANES)

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        _, a, a_at, b, b_at, b_step, listed, count, c, c_at = arguments
        a_type, b_type, l_type, c_type = (signature.args[index] for index in (1, 3, 6, 8))
        sums = _zeros(builder, register, width)
        with cgutils.for_range(builder, count) as loop:
            where = address(context, builder, l_type, listed, loop.index, _I16)
            place = builder.zext(builder.load(where, align=2), _I64)
            pair = builder.load(address(context, builder, a_type, a, builder.add(a_at, place), _I32), align=4)
            spikes = splat(builder, _I32, pair, WORD_LANES)
            b_row = builder.add(b_at, builder.mul(place, b_step))
            taps = _registers(context, builder, b_type, b, b_row, register, width)
            for held, tap in zip(sums, taps, strict=True):
                builder.store(_add_words(builder, builder.load(held), spikes, tap), held)
        _write(context, builder, c_type, c, c_at, sums)
        return context.get_dummy_value()

    place = types.intp
    return types.void(columns, a, place, b, place, place, listed, place, c, place), codegen


def _zeros(builder: Any, register: ir.VectorType, count: int) -> list[Any]:
    """Variables of LLVM, each a register of zeros."""
    return [cgutils.alloca_once_value(builder, ir.Constant(register, None)) for _ in range(count)]


def _registers(
    context: Any, builder: Any, array_type: Any, array: Any, at: Any, register: ir.VectorType, count: int
) -> list[Any]:
    """Load ``count`` registers of neighbours of an array of int32."""
    places = (builder.add(at, ir.Constant(_I64, each * register.count)) for each in range(count))
    return [builder.load(address(context, builder, array_type, array, each, register), align=4) for each in places]


def _write(context: Any, builder: Any, array_type: Any, array: Any, at: Any, held: list[Any]) -> None:
    """Write registers as neighbours of an array of int32."""
    for index, each in enumerate(held):
        value = builder.load(each)
        where = builder.add(at, ir.Constant(_I64, index * value.type.count))
        builder.store(value, address(context, builder, array_type, array, where, value.type), 4)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def add_rows(
    typing: Any, count: Any, weights: Any, span: Any, rows: Any, sums: Any, s_at: Any, more: Any, last: Any, scale: Any,
    bias: Any, f_at: Any, out: Any, o_at: Any,
) -> tuple[Any, Codegen]:  # fmt: skip
    """Add rows of int8 weights in 16-bit sums in AVX2's registers, and write the sums, or results scaled from them.

    Two rows are interleaved, byte by byte, and a product with ones adds each pair of bytes. ``INTERLEAVED`` gives the
    order in which each 32 weights of a row must be stored.

    Args:
        typing: Numba's typing context.
        count: The weights of a row, divided by 32, a literal.
        weights: int8.
        span: Four places: what is added to each entry of ``rows``; where in ``weights`` a row of zeros is; the first
            entry of ``rows`` to add, and the one after the last.
        rows: int32: where in ``weights`` each row begins, less what ``span`` adds.
        sums: int32: sums of earlier calls.
        s_at: Where in ``sums`` the first sum is.
        more: Whether to add the sums of earlier calls.
        last: True: write scaled sums to ``out``. False: write sums to ``sums``.
        scale: float32: what sums are multiplied by.
        bias: float32: what is added to scaled sums.
        f_at: Where in ``scale`` and ``bias`` the numbers of the first sum are.
        out: float32.
        o_at: Where in ``out`` the first result is written.
    """
    parts = count.literal_value
    whole, words = ir.VectorType(_I8, ROW_BYTES), ir.VectorType(_I16, LANES)
    low = [each for lane in (0, 16) for byte in range(8) for each in (lane + byte, ROW_BYTES + lane + byte)]
    halves = [ir.Constant(ir.VectorType(_I32, ROW_BYTES), [each + part for each in low]) for part in (0, 8)]

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        _, weights, span, rows, sums, s_at, more, last, scale, bias, f_at, out, o_at = arguments
        _, w_type, _, r_type, s_type, _, _, _, scale_type, bias_type, _, o_type, _ = signature.args
        w_at, none, begin, end = cgutils.unpack_tuple(builder, span)
        made = [[cgutils.alloca_once(builder, words) for _ in halves] for _ in range(parts)]
        for each in (each for pair in made for each in pair):
            builder.store(ir.Constant(words, None), each)
        block = address(context, builder, w_type, weights, w_at, _I8)
        zeros = address(context, builder, w_type, weights, none, _I8)
        kind = ir.FunctionType(words, [whole, whole])
        multiply = builder.module.declare_intrinsic("llvm.x86.avx2.pmadd.ub.sw", fnty=kind)
        ones = ir.Constant(whole, [1] * ROW_BYTES)

        def row_at(index: Any) -> Any:
            place = builder.load(address(context, builder, r_type, rows, index, _I32), align=4)
            return builder.gep(block, [builder.zext(place, _I64)])

        def row_or_zeros(index: Any) -> Any:
            return builder.select(builder.icmp_signed("<", index, end), row_at(index), zeros)

        def part_of(row: Any, part: int) -> Any:
            where = builder.bitcast(builder.gep(row, [ir.Constant(_I64, part * ROW_BYTES)]), ir.PointerType(whole))
            return builder.load(where, align=1)

        def add(index: Any, row_of: Callable[[Any], Any]) -> None:
            for pair in range(0, ROWS_AT_ONCE, 2):
                a, b = (row_of(builder.add(index, ir.Constant(_I64, pair + each))) for each in range(2))
                for part in range(parts):
                    both = part_of(a, part), part_of(b, part)
                    for half, each in zip(halves, made[part], strict=True):
                        added = builder.call(multiply, [ones, builder.shuffle_vector(*both, half)])
                        builder.store(builder.add(builder.load(each), added), each)

        turns = builder.and_(builder.sub(end, begin), ir.Constant(_I64, -ROWS_AT_ONCE))
        rest = builder.add(begin, turns)
        with cgutils.for_range_slice(builder, begin, rest, ir.Constant(_I64, ROWS_AT_ONCE)) as (index, _):
            add(index, row_at)
        with builder.if_then(builder.icmp_signed("<", rest, end)):
            add(rest, row_or_zeros)
        with builder.if_else(last) as (scaled, summed):
            for branch in (scaled, summed):
                with branch:
                    for lane, each in enumerate(each for pair in made for each in pair):
                        here = ir.Constant(_I64, lane * LANES)
                        held = address(context, builder, s_type, sums, builder.add(s_at, here), vector(_I32))
                        there = builder.select(more, builder.load(held, align=4), ir.Constant(vector(_I32), None))
                        total = builder.add(builder.sext(builder.load(each), vector(_I32)), there)
                        if branch is summed:
                            builder.store(total, held, 4)
                            continue
                        factor, offset = (
                            builder.load(
                                address(context, builder, kind, array, builder.add(f_at, here), vector(_F32)), align=4
                            )
                            for kind, array in ((scale_type, scale), (bias_type, bias))
                        )
                        real = builder.fadd(builder.fmul(builder.sitofp(total, vector(_F32)), factor), offset)
                        where = address(context, builder, o_type, out, builder.add(o_at, here), vector(_F32))
                        builder.store(real, where, 4)
        return context.get_dummy_value()

    place = types.intp
    span_type, flag = types.containers.UniTuple(place, 4), types.boolean
    return types.void(
        count, weights, span_type, rows, sums, place, flag, flag, scale, bias, place, out, place
    ), codegen  # fmt: skip


def _call(builder: Any, name: str, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(_VOID, [each.type for each in arguments])
    return builder.call(builder.module.declare_intrinsic(f"llvm.x86.{name}", fnty=kind), arguments)


def _number(tile: Any) -> Any:
    return ir.Constant(_I8, tile.literal_value)


@intrinsic  # type: ignore[untyped-decorator]
def configure_tiles(typing: Any, shapes: Any) -> tuple[Any, Codegen]:
    """Configure the shapes of the thread's tiles, 64 bytes in the processor's own format."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        where = address(context, builder, signature.args[0], arguments[0], ir.Constant(_I64, 0), _I8)
        _call(builder, "ldtilecfg", [where])
        return context.get_dummy_value()

    return types.void(shapes), codegen


@intrinsic  # type: ignore[untyped-decorator]
def release_tiles(typing: Any) -> tuple[Any, Codegen]:
    """Return the thread's tiles to the state before they were configured."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        _call(builder, "tilerelease", [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def clear_tile(typing: Any, tile: Any) -> tuple[Any, Codegen]:
    """Fill a tile with zeros; its number is a literal."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        _call(builder, "tilezero", [_number(tile)])
        return context.get_dummy_value()

    return types.void(tile), codegen


def _memory_of_tile(name: str) -> Any:
    def operation(typing: Any, tile: Any, array: Any, at: Any, step: Any) -> tuple[Any, Codegen]:
        def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
            _, array_value, place, stride = arguments
            where = address(context, builder, signature.args[1], array_value, place, _I8)
            _call(builder, name, [_number(tile), where, stride])
            return context.get_dummy_value()

        return types.void(tile, array, types.intp, types.intp), codegen

    operation.__doc__ = "Load or store a tile: rows of an array from element ``at`` on, ``step`` bytes apart."
    return intrinsic(prefer_literal=True)(operation)


load_tile = _memory_of_tile("tileloadd64")
store_tile = _memory_of_tile("tilestored64")


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def dot_tiles(typing: Any, sums: Any, a: Any, b: Any) -> tuple[Any, Codegen]:
    """Add the product of a tile of uint8 and a tile of int8 to a tile of int32."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: tuple[Any, ...]) -> Any:
        _call(builder, "tdpbusd", [_number(sums), _number(a), _number(b)])
        return context.get_dummy_value()

    return types.void(sums, a, b), codegen
