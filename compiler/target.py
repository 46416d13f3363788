"""The limits of Loihi, as Lava's fixed-point models state them: each fact here and nowhere else.

Sources: Lava 0.10.0 ``proc/lif/models.py`` (``PyLifResetModelBitAcc``), ``proc/conv/models.py`` and
``proc/dense/models.py``; M. Davies et al., "Loihi: A Neuromorphic Manycore Processor with On-Chip Learning",
IEEE Micro 38(1), 2018.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Number formats of a Loihi-style chip.

    All limits are inclusive. ``a`` is the synaptic input that a neuron sums in one step, before its shift.
    """

    vth_mantissa_max: int = 2**17 - 1
    """Largest threshold mantissa; compared with the membrane potential after the shift ``a_shift``."""
    a_shift: int = 6
    """Bits by which Loihi shifts synaptic input and threshold to align them with u and v."""
    a_max: int = 2**17 - 1
    """Largest magnitude of a neuron's synaptic input; above it, the current u wraps."""
    v_max: int = 2**23 - 1
    """Largest magnitude of the membrane potential; the neuron clips there."""
    accumulator_max: int = 2**23 - 1
    """Largest magnitude that a convolution's 24-bit accumulator holds; Lava's Conv wraps above it."""
    dense_sum_max: int = 2**30 - 1
    """Largest magnitude of a Dense's sums: Lava's accumulator has 32 bits, and holds weights of mixed sign doubled."""
    graded_max: int = 2**23 - 1
    """Largest magnitude of a graded spike's payload in Lava."""
    bias_mantissa_max: int = 2**12 - 1
    """Largest magnitude of a bias mantissa (13 bits, signed)."""
    bias_exp_max: int = 7
    """Largest bias exponent."""
    decay_unity: int = 2**12
    """The decays du and dv are fractions of this."""
    du_no_memory: int = 2**12 - 1
    """du for a current that keeps nothing of the last step: Loihi adds one to du."""
    weight_bits_max: int = 8
    """Largest width of a stored weight, sign included."""
    stacked_bits_max: int = 15
    """Largest width of a weight of two synapses: 127 * 2^7 + 127 is 2^14 - 1."""
    weight_exp_max: int = 7
    """Largest weight exponent."""


LOIHI = Target()
