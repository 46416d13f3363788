"""The integer model's model-local functions, in ONNX's text syntax.

They rest on what ONNX defines of its integers: ``Div`` rounds toward zero, and a ``Cast`` to a narrower type keeps the
low bits.

Where a function is *counted*, it has one output more: how many values it clipped, an int64 scalar.
"""

from __future__ import annotations

from string import Template

from resformer.compiler.target import LOIHI

BYTE_BITS = 8

MAX_POOL = """
MaxPool2d (x, rows, columns) => (y)
{
    row_windows = Gather <axis = 2> (x, rows)
    over_rows = ReduceMax <axes = [3], keepdims = 0> (row_windows)
    windows = Gather <axis = 3> (over_rows, columns)
    y = ReduceMax <axes = [4], keepdims = 0> (windows)
}
"""
"""Maxima over windows; ``rows`` and ``columns``, (windows, kernel), hold each window's indices. ONNX's own ``MaxPool``
takes no 32-bit integers."""

SUM_POOL = """
SumPool2d (x, rows, columns) => (y)
{
    row_axis = Constant <value_ints = [3]> ()
    column_axis = Constant <value_ints = [4]> ()
    row_windows = Gather <axis = 2> (x, rows)
    over_rows = ReduceSum <keepdims = 0> (row_windows, row_axis)
    windows = Gather <axis = 3> (over_rows, columns)
    y = ReduceSum <keepdims = 0> (windows, column_axis)
}
"""
"""Sums over windows, likewise."""

_SATURATE = """
    wide_limit = Constant <value_int: int = @limit> ()
    high = Cast <to = 6> (wide_limit)
    low = Neg (high)
    $result = Clip (free, low, high)
"""

_COUNT_SATURATED = """
    kept = Equal (free, $result)
    lost = Not (kept)
    each = Cast <to = 6> (lost)
    sum = ReduceSum <keepdims = 0> (each)
    saturated = Cast <to = 7> (sum)
"""

_LIF = Template(f"""
$name <timesteps, vth, $decays> (current, bias) => (spikes$saturated)
{{
    steps = Constant <value_int: int = @timesteps> ()
    one = Constant <value_ints = [1]> ()
    batch = Constant <value_ints = [-1]> ()
    steps_axis = Reshape (steps, one)
    population = Shape <start = 1> (current)
    by_step = Concat <axis = 0> (steps_axis, batch, population)
    current_by_step = Reshape (current, by_step)
    neurons = Shape <start = 1> (current_by_step)
    wide_vth = Constant <value_int: int = @vth> ()
    vth = Cast <to = $type> (wide_vth)
    shift = Constant <value = $text_type {{{1 << LOIHI.a_shift}}}> ()
    threshold = Mul (vth, shift)
    high = Constant <value = $text_type {{{LOIHI.v_max}}}> ()
    low = Neg (high)
    rest = Constant <value = $text_type {{0}}> ()
    zeros = ConstantOfShape <value = $text_type[1] {{0}}> (neurons)
    $constants
    $states_end, spikes_by_step$clipped_by_step = Scan <num_scan_inputs = 1, body = step
        ($states, int32[] now) => ($states_next, uint8[] spike$clipped_type)
        {{
            $charge
            charged = Clip (free, low, high)
            fires = Greater (charged, threshold)
            v_next = Where (fires, rest, charged)
            spike = Cast <to = 2> (fires)
            $count
        }}> ($states_start, current_by_step)
    shape = Shape (current)
    spikes = Reshape (spikes_by_step, shape)
    $total
}}
""")
"""Neurons that start at rest and step over T, as ``fixedpoint.lif_step``; ``bias`` counts 64ths of the current."""

_COUNTED = {
    "saturated": ", saturated",
    "clipped_by_step": ", clipped_by_step",
    "clipped_type": ", int32 clipped",
    "count": """
            below = Less (free, low)
            each = Cast <to = 6> (below)
            clipped = ReduceSum <keepdims = 0> (each)""",
    "total": """
    wide = Cast <to = 7> (clipped_by_step)
    saturated = ReduceSum <keepdims = 0> (wide)""",
}
"""What counts potentials clipped from below; clipped from above, a neuron fires either way."""


def lif(*, counted: bool) -> str:
    """Neurons whose current keeps nothing, and whose v times ``keep`` fits 32 bits: each step leaves
    v * keep / unity of v, rounded toward zero."""
    return _LIF.substitute(
        _counting(counted),
        name="LIF",
        decays="keep, unity",
        type="6",
        text_type="int32",
        constants="""
    wide_keep = Constant <value_int: int = @keep> ()
    keep = Cast <to = 6> (wide_keep)
    wide_unity = Constant <value_int: int = @unity> ()
    unity = Cast <to = 6> (wide_unity)""",
        states="int32[] v",
        states_next="int32[] v_next",
        states_start="zeros",
        states_end="v_end",
        charge="""
            product = Mul (v, keep)
            left = Div (product, unity)
            u = Mul (now, shift)
            drive = Add (u, bias)
            free = Add (left, drive)""",
    )


def lif64(*, counted: bool) -> str:
    """Neurons with any decays, in 64 bits: ``keep_u`` and ``keep_v`` are what a step leaves of u and v, in 1/4096."""
    return _LIF.substitute(
        _counting(counted),
        name="LIF64",
        decays="keep_u, keep_v",
        type="7",
        text_type="int64",
        constants=f"""
    keep_u = Constant <value_int: int = @keep_u> ()
    keep_v = Constant <value_int: int = @keep_v> ()
    unity = Constant <value = int64 {{{LOIHI.decay_unity}}}> ()
    wide_bias = Cast <to = 7> (bias)""",
        states="int64[] u, int64[] v",
        states_next="int64[] u_next, int64[] v_next",
        states_start="zeros, zeros",
        states_end="u_end, v_end",
        charge="""
            u_product = Mul (u, keep_u)
            u_left = Div (u_product, unity)
            wide_now = Cast <to = 7> (now)
            arriving = Mul (wide_now, shift)
            u_next = Add (u_left, arriving)
            v_product = Mul (v, keep_v)
            v_left = Div (v_product, unity)
            drive = Add (u_next, wide_bias)
            free = Add (v_left, drive)""",
    )


def relay(*, counted: bool) -> str:
    """A sum with a bias, clipped to ``limit`` on both sides."""
    return f"""
Relay <limit> (currents, bias) => (sent{", saturated" if counted else ""})
{{
    free = Add (currents, bias)
    {_saturate("sent", counted=counted)}
}}
"""


def spike_matmul(bits: int, *, counted: bool) -> str:
    """A product of attention, clipped to ``limit``: y of so many bits, transposed or not, times the spikes."""
    return f"""
SpikeMatMul{bits} <y_shape, perm, spikes_shape, output_shape, limit> (y, bias, spikes) => (
    product{", saturated" if counted else ""})
{{
    heads_of_y = Constant <value_ints: ints = @y_shape> ()
    heads_of_spikes = Constant <value_ints: ints = @spikes_shape> ()
    merged = Constant <value_ints: ints = @output_shape> ()
    biased = Add (y, bias)
    y_by_head = Reshape (biased, heads_of_y)
    rows = Transpose <perm: ints = @perm> (y_by_head)
    gates = Reshape (spikes, heads_of_spikes)
    {_by_bytes(bits, "MatMulInteger", "rows", "gates", "sums")}
    free = Reshape (sums, merged)
    {_saturate("product", counted=counted)}
}}
"""


def convolution(bits: int) -> str:
    """``ConvInteger`` of signed integers of so many bits, byte by byte."""
    convolve = (
        "ConvInteger <strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations, group: int = @group>"
    )
    return f"""
ConvInteger{bits} <strides, pads, dilations, group> (x, w) => (y)
{{
    {_by_bytes(bits, convolve, "x", "w", "y")}
}}
"""


def _by_bytes(bits: int, product: str, left: str, right: str, result: str) -> str:
    """A product of 8-bit integers applied to each byte of ``left``, and the results put together.

    In two's complement, the highest byte alone is signed: the zero point of 128 says so. Padding, being at the zero
    point, adds nothing.
    """
    count = bits // BYTE_BITS
    lines = [
        f"offset = Constant <value = int32 {{{1 << (bits - 1)}}}> ()",
        f"base = Constant <value = int32 {{{1 << BYTE_BITS}}}> ()",
        f"sign = Constant <value = uint8 {{{1 << (BYTE_BITS - 1)}}}> ()",
        f"rest_0 = Add ({left}, offset)",
    ]
    for index in range(count):
        if index:
            lines.append(f"rest_{index} = Div (rest_{index - 1}, base)")
        zero_point = ", sign" if index == count - 1 else ""
        lines.append(f"byte_{index} = Cast <to = 2> (rest_{index})")
        lines.append(f"part_{index} = {product} (byte_{index}, {right}{zero_point})")
    higher = f"part_{count - 1}"
    for index in reversed(range(count - 1)):
        lines.append(f"shifted_{index} = Mul ({higher}, base)")
        higher = f"joined_{index}"
        lines.append(f"{higher} = Add (shifted_{index}, part_{index})")
    lines.append(f"{result} = Identity ({higher})")
    return "\n    ".join(lines)


def _saturate(result: str, *, counted: bool) -> str:
    """Clip ``free`` to ``limit``."""
    return Template(_SATURATE + _COUNT_SATURATED * counted).substitute(result=result)


def _counting(counted: bool) -> dict[str, str]:
    return _COUNTED if counted else dict.fromkeys(_COUNTED, "")
