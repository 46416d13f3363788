"""How weights are stored: their mantissas, the two synapses of a wide mantissa, and the memory that they take.

A layer stores all its weights or, where that takes less memory, only those that are not zero.
"""

from __future__ import annotations

import numpy as np

from resformer.compiler.ir.arrays import Int8Array, Int64Array, WeightArray
from resformer.compiler.target import LOIHI

OUTLIER_BITS = LOIHI.weight_bits_max + 1
"""One bit more than a synapse holds: the few weights that are too large for one synapse get a second one."""

NEXT_WIDTH = {7: 8}
"""For each width that synapses cannot have, the width that is used in its place."""


def mantissa_bits(weight: WeightArray) -> int:
    """The bits that mantissas need, sign included."""
    return 1 + int(np.abs(weight.astype(np.int64)).max(initial=0)).bit_length()


def synapse_bits(weight: WeightArray) -> int:
    """The bits that a core stores for each of a layer's weights.

    The sign takes no bit if no weight is negative, or none is positive. Seven bits are stored as eight: Loihi has
    widths of 1 to 6 and 8, and lava-dl's netx/oxford/run.ipynb prints 8 for weights that seven would hold.
    """
    signed = bool((weight > 0).any()) and bool((weight < 0).any())
    bits = mantissa_bits(weight) - (not signed)
    return NEXT_WIDTH.get(bits, max(bits, 1))


def stored_share(weight: WeightArray, index_bits: int) -> float:
    """The share of a convolution's weights that are stored: all, or only those that are not zero, if that takes less.

    Args:
        weight: Mantissas.
        index_bits: Bits of the index that a weight needs if zeros are left out; 0 if zeros cannot be left out.
    """
    if index_bits == 0:
        return 1.0
    bits, nonzero = mantissa_bits(weight), int(np.count_nonzero(weight))
    return nonzero / weight.size if nonzero * (bits + index_bits) < weight.size * bits else 1.0


def stored_bits(weight: WeightArray, index_bits: int) -> int:
    """The bits that a convolution's weights take, with their indices if they have any, but without headers of rows."""
    bits, share = mantissa_bits(weight), stored_share(weight, index_bits)
    return weight.size * bits if share == 1 else int(np.count_nonzero(weight)) * (bits + index_bits)


def mantissa_max(bits: int) -> int:
    """The largest magnitude of a mantissa of ``bits`` bits, sign included; two synapses hold ``OUTLIER_BITS``."""
    if bits == OUTLIER_BITS:
        return 2 * mantissa_max(LOIHI.weight_bits_max)
    largest: int = 2 ** (bits - 1) - 1
    return largest


def split_mantissas(weight: WeightArray) -> tuple[Int8Array, Int8Array, int]:
    """Split mantissas m into (hi, lo, s) with m = hi * 2^s + lo; hi and lo have the sign of m.

    If two synapses of one unit hold all m, s is zero. Then lo is as large as it can be, so that hi is zero except for
    the few m that one synapse cannot hold. Otherwise lo is the lowest s bits, and s is the least with which all hi fit.
    Because the signs agree, range analysis proves the same bounds for the sum of both parts as for the whole.
    """
    magnitude, sign = np.abs(weight.astype(np.int32)), np.sign(weight)
    largest, most = mantissa_max(LOIHI.weight_bits_max), int(magnitude.max(initial=0))
    if most <= 2 * largest:
        shift, low = 0, np.minimum(magnitude, largest)
    else:
        shift = most.bit_length() - (LOIHI.weight_bits_max - 1)
        low = magnitude & ((1 << shift) - 1)
    high = (magnitude - low) >> shift
    return (sign * high).astype(np.int8), (sign * low).astype(np.int8), shift


def whole_exponent(weight: Int64Array) -> int:
    """The largest exponent e that a synapse can have and with which all weights are whole multiples of 2^e."""
    met = int(np.bitwise_or.reduce(np.abs(weight), axis=None))
    return min((met & -met).bit_length() - 1, LOIHI.weight_exp_max) if met else 0
