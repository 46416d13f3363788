"""The integer model's model-local functions, in ONNX's text syntax.

They rely on what ONNX defines for integers: ``Div`` rounds toward zero, and a ``Cast`` to a narrower type keeps the low
bits.

A function that is *counted* has one more output: the number of values that it clipped, an int64 scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from string import Template
from types import MappingProxyType
from typing import NamedTuple

from resformer.compiler.ir.fixedpoint import Rounding
from resformer.compiler.target import LOIHI

BYTE_BITS = 8
BYTE_HALF = 1 << (BYTE_BITS - 1)

_HALF = f"""half = Constant <value = uint8 {{{BYTE_HALF}}}> ()
    wide_half = Cast <to = 6> (half)"""
_UNSIGNED_WEIGHT = f"""{_HALF}
    wide_weight = Cast <to = 6> (weight)
    positive_weight = Add (wide_weight, wide_half)
    unsigned_weight = Cast <to = 2> (positive_weight)"""
"""The statements that make weights unsigned, for unsigned products; their zero point is ``half``."""

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
"""Sums over windows; ``rows`` and ``columns``, (windows, kernel), hold each window's indices."""

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
    clips = ReduceSum <keepdims = 0> (each)
    saturated = Cast <to = 7> (clips)
"""


def _by_step(value: str) -> str:
    """The statements that split a value's merged first axis, (T * N, ...), to make ``VALUE_by_step``, (T, N, ...)."""
    return f"""steps = Constant <value_int: int = @timesteps> ()
    one = Constant <value_ints = [1]> ()
    batch = Constant <value_ints = [-1]> ()
    steps_axis = Reshape (steps, one)
    population = Shape <start = 1> ({value})
    by_step = Concat <axis = 0> (steps_axis, batch, population)
    {value}_by_step = Reshape ({value}, by_step)"""


_LIF = Template(f"""
$name <timesteps, vth, $attributes> (current, bias) => (spikes$saturated)
{{
    {_by_step("current")}
    neurons = Shape <start = 1> (current_by_step)
    wide_vth = Constant <value_int: int = @vth> ()
    vth = Cast <to = 6> (wide_vth)
    shift = Constant <value = int32 {{{1 << LOIHI.a_shift}}}> ()
    threshold = Mul (vth, shift)
    high = Constant <value = int32 {{{LOIHI.v_max}}}> ()
    low = Neg (high)
    rest = Constant <value = int32 {{0}}> ()
    start = ConstantOfShape <value = int32[1] {{0}}> (neurons)
    $constants
    $ends, spikes_by_step$clipped_by_step = Scan <num_scan_inputs = 1, body = step
        ($states, int32[] now) => ($states_next, uint8[] spike$clipped_type)
        {{
            arriving = Mul (now, shift)
            $leaks
            drive = Add ($u, bias)
            free = Add (v_left, drive)
            charged = Clip (free, low, high)
            fires = Greater (charged, threshold)
            v_next = Where (fires, rest, charged)
            spike = Cast <to = 2> (fires)
            $count
        }}> ($starts, current_by_step)
    shape = Shape (current)
    spikes = Reshape (spikes_by_step, shape)
    $total
}}
""")
"""Neurons that start at rest and step over T, as ``fixedpoint.lif_step`` computes; ``bias`` is in 1/64 of the current.
"""

_COUNTED = {
    "saturated": ", saturated",
    "clipped_by_step": ", clipped_by_step",
    "clipped_type": ", int32 clipped",
    "count": """
            below = Less (free, low)
            each = Cast <to = 6> (below)
            clipped = ReduceSum <keepdims = 0> (each)""",
    "total": """
    wide_clipped = Cast <to = 7> (clipped_by_step)
    saturated = ReduceSum <keepdims = 0> (wide_clipped)""",
}
"""The parts that count potentials clipped from below; one clipped from above fires with or without the clip."""

_MEMORYLESS = {
    "ends": "v_end",
    "states": "int32[] v",
    "states_next": "int32[] v_next",
    "starts": "start",
    "u": "arriving",
}
"""The parts of neurons whose current keeps nothing of the last step."""


def lif(*, counted: bool) -> str:
    """Neurons whose v decays to v * keep / unity in a step, where v * keep fits 32 bits: tau is a power of two."""
    return _LIF.substitute(
        _MEMORYLESS | _counting(counted),
        name="LIF",
        attributes="keep, unity",
        constants=_constant("keep") + _constant("unity"),
        leaks="""
            product = Mul (v, keep)
            v_left = Div (product, unity)""",
    )


def plif(*, counted: bool) -> str:
    """Neurons whose v decays to v * keep / 4096 in a step: any tau, such as one that was learned."""
    return _LIF.substitute(
        _MEMORYLESS | _counting(counted),
        name="PLIF",
        attributes="keep",
        constants=_constant("keep") + _UNITY,
        leaks=_leak("v", "keep"),
    )


def current_lif(*, counted: bool) -> str:
    """Neurons whose u decays to u * keep_u / 4096 and whose v decays to v * keep_v / 4096 in a step."""
    return _LIF.substitute(
        _counting(counted),
        name="CurrentLIF",
        attributes="keep_u, keep_v",
        constants=_constant("keep_u") + _constant("keep_v") + _UNITY,
        ends="u_end, v_end",
        states="int32[] u, int32[] v",
        states_next="int32[] u_next, int32[] v_next",
        starts="start, start",
        u="u_next",
        leaks=f"""{_leak("u", "keep_u")}{_leak("v", "keep_v")}
            u_next = Add (u_left, arriving)""",
    )


_CUBA_LIF = Template(f"""
$name <timesteps> (current, keep_u, keep_v, u_bias, v_bias, threshold$parameters) => (spikes$saturated)
{{
    {_by_step("current")}
    neurons = Shape <start = 1> (current_by_step)
    shift = Constant <value = int32 {{{1 << LOIHI.a_shift}}}> ()
    unity = Constant <value = int32 {{{LOIHI.decay_unity}}}> ()
    high = Constant <value = int32 {{{LOIHI.v_max}}}> ()
    low = Neg (high)
    rest = Constant <value = int32 {{0}}> ()
    start = ConstantOfShape <value = int32[1] {{0}}> (neurons)
    $prepare
    u_end, v_end, $end spikes_by_step$clipped_by_step = Scan <num_scan_inputs = 1, body = step
        (int32[] u, int32[] v, $state int32[] now) => (
            int32[] u_next, int32[] v_next, $state_next uint8[] spike$clipped_type)
        {{
            $leak_u
            $feed_back
            arriving = Mul ($given, shift)
            biased = Add (arriving, u_bias)
            gathered = Add (u_left, biased)
            u_next = Clip (gathered, low, high)
            $leak_v
            drive = Add (u_next, v_bias)
            free = Add (v_left, drive)
            charged = Clip (free, low, high)
            $fires
            $after_spike
            v_next = Where (fires, after, charged)
            $fired
            $count
        }}> (start, start, $start current_by_step)
    shape = Shape (current)
    spikes = Reshape (spikes_by_step, shape)
    $total
}}
""")
"""Neurons that start at rest and step over T, as ``fixedpoint.cuba_lif_step`` computes; parameters broadcast against
the population."""

_COUNT_BOTH = """
            kept_u = Equal (gathered, u_next)
            lost_u = Not (kept_u)
            $lost_v
            each_u = Cast <to = 6> (lost_u)
            each_v = Cast <to = 6> (lost_v)
            each = Add (each_u, each_v)
            clipped = ReduceSum <keepdims = 0> (each)"""

_LOST_BELOW = "lost_v = Less (free, low)"
_LOST_ANY = """kept_v = Equal (free, charged)
            lost_v = Not (kept_v)"""


def cuba_li(*, counted: bool) -> str:
    """Neurons whose current has a memory and that do not fire; the output is their potentials."""
    counting = _counting(counted)
    if counted:
        counting["count"] = Template(_COUNT_BOTH).substitute(lost_v=_LOST_ANY)
    return _CUBA_LI.substitute(counting, leak_u=_leak("u", "keep_u"), leak_v=_leak("v", "keep_v"))


_CUBA_LI = Template(f"""
CubaLI <timesteps> (current, keep_u, keep_v, u_bias) => (potentials$saturated)
{{
    {_by_step("current")}
    neurons = Shape <start = 1> (current_by_step)
    shift = Constant <value = int32 {{{1 << LOIHI.a_shift}}}> ()
    unity = Constant <value = int32 {{{LOIHI.decay_unity}}}> ()
    high = Constant <value = int32 {{{LOIHI.v_max}}}> ()
    low = Neg (high)
    start = ConstantOfShape <value = int32[1] {{0}}> (neurons)
    u_end, v_end, potentials_by_step$clipped_by_step = Scan <num_scan_inputs = 1, body = step
        (int32[] u, int32[] v, int32[] now) => (int32[] u_next, int32[] charged, int32[] potential$clipped_type)
        {{
            $leak_u
            arriving = Mul (now, shift)
            biased = Add (arriving, u_bias)
            gathered = Add (u_left, biased)
            u_next = Clip (gathered, low, high)
            $leak_v
            free = Add (v_left, u_next)
            charged = Clip (free, low, high)
            potential = Identity (charged)
            $count
        }}> (start, start, current_by_step)
    shape = Shape (current)
    potentials = Reshape (potentials_by_step, shape)
    $total
}}
""")
"""Neurons that start at rest and step over T, as ``fixedpoint.cuba_li_step`` computes."""


def multi_spike(name: str, *, rounding: Rounding, leaks: bool, counted: bool) -> str:
    """Neurons that may fire several spikes in a step; the output is their counts.

    Args:
        name: The name of the function.
        rounding: How a potential is rounded to a count.
        leaks: Whether v decays to v * keep / 4096 in a step; if not, v does not decay.
        counted: Whether clipped potentials are counted.
    """
    counting = _counting(counted)
    if counted:
        counting["count"] = """
            kept = Equal (free, charged)
            lost = Not (kept)
            each = Cast <to = 6> (lost)
            clipped = ReduceSum <keepdims = 0> (each)"""
    return _MULTI_SPIKE.substitute(
        counting,
        name=name,
        keep=", keep" if leaks else "",
        leak=_leak("v", "keep") if leaks else "v_left = Identity (v)",
        quotient=_QUOTIENTS[rounding],
    )


_NEAREST = """
            doubled = Mul (positive, two)
            raised = Add (doubled, threshold)
            span = Mul (threshold, two)
            nearest = Div (raised, span)"""

_QUOTIENTS: Mapping[Rounding, str] = MappingProxyType(
    {
        Rounding.DOWN: """
            whole = Div (positive, threshold)""",
        Rounding.UP: f"""{_NEAREST}
            whole = Identity (nearest)""",
        Rounding.EVEN: f"""{_NEAREST}
            back = Mul (nearest, span)
            is_tie = Equal (raised, back)
            tie = Cast <to = 6> (is_tie)
            odd = Mod (nearest, two)
            excess = Mul (tie, odd)
            whole = Sub (nearest, excess)""",
    }
)
"""The statements that round a potential, not negative, to a count in 32 bits: twice a potential plus a threshold fits.
"""

_MULTI_SPIKE = Template(f"""
$name <timesteps> (current, threshold, floor, bias, most$keep) => (counts$saturated)
{{
    {_by_step("current")}
    neurons = Shape <start = 1> (current_by_step)
    shift = Constant <value = int32 {{{1 << LOIHI.a_shift}}}> ()
    high = Constant <value = int32 {{{LOIHI.v_max}}}> ()
    low = Neg (high)
    none = Constant <value = int32 {{0}}> ()
    two = Constant <value = int32 {{2}}> ()
    unity = Constant <value = int32 {{{LOIHI.decay_unity}}}> ()
    start = ConstantOfShape <value = int32[1] {{0}}> (neurons)
    v_end, counts_by_step$clipped_by_step = Scan <num_scan_inputs = 1, body = step
        (int32[] v, int32[] now) => (int32[] v_next, int32[] count$clipped_type)
        {{
            arriving = Mul (now, shift)
            biased = Add (arriving, bias)
            $leak
            free = Add (v_left, biased)
            charged = Clip (free, low, high)
            positive = Max (charged, none)
            $quotient
            count = Min (whole, most)
            taken = Mul (count, threshold)
            left = Sub (charged, taken)
            v_next = Max (left, floor)
            $count
        }}> (start, current_by_step)
    shape = Shape (current)
    counts = Reshape (counts_by_step, shape)
    $total
}}
""")
"""Neurons that start at rest and step over T, as ``fixedpoint.multi_spike_step`` computes."""


SAMPLE_DELAY = f"""
SampleDelay <timesteps> (x, since, arrived) => (y)
{{
    {_by_step("x")}
    whole = Shape (x_by_step)
    index = Expand (since, whole)
    sent = GatherElements <axis = 0> (x_by_step, index)
    rest = Constant <value = int32 {{0}}> ()
    nothing = CastLike (rest, x)
    y_by_step = Where (arrived, sent, nothing)
    shape = Shape (x)
    y = Reshape (y_by_step, shape)
}}
"""
"""Delays of neurons within a sample. For each step and neuron, (T, 1, ...): ``since`` is the step at which the value
that arrives was sent, and ``arrived`` says whether one arrives."""


class Feedback(NamedTuple):
    """The form of recurrent synapses: a convolution, in one or more parts, of the spikes of the step before."""

    padding: tuple[int, int]
    groups: int
    parts: int

    @property
    def name(self) -> str:
        """A part of the names of functions with such synapses; no attribute can tell a ``Scan`` body of the form."""
        rows, columns = self.padding
        groups = f"Groups{self.groups}" if self.groups > 1 else ""
        parts = f"Parts{self.parts}" if self.parts > 1 else ""
        return f"Recurrent{rows}x{columns}{groups}{parts}"

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of each part's mantissas and scale."""
        return tuple(f"{name}{part}" for part in range(self.parts) for name in ("weight", "scale"))


_NO_FEEDBACK = {
    "prepare": "",
    "end": "",
    "state": "",
    "state_next": "",
    "feed_back": "",
    "given": "now",
    "fired": "spike = Cast <to = 2> (fires)",
    "start": "",
}


def _feed_back(feedback: Feedback) -> dict[str, str]:
    """The parts of neurons that read their own spikes, by unsigned weights with a zero point as in ``convolution``."""
    rows, columns = feedback.padding
    attributes = f"pads = [{rows}, {columns}, {rows}, {columns}], group = {feedback.groups}"
    parts = range(feedback.parts)
    sums = "".join(
        f"""
            mantissas{part} = ConvInteger <{attributes}> (fired, unsigned_weight{part}, none, half)
            fed_back{part} = Mul (mantissas{part}, scale{part})
            given{part} = Add ({f"given{part - 1}" if part else "now"}, fed_back{part})"""
        for part in parts
    )
    unsigned = "".join(
        f"""
    wide_weight{part} = Cast <to = 6> (weight{part})
    positive_weight{part} = Add (wide_weight{part}, wide_half)
    unsigned_weight{part} = Cast <to = 2> (positive_weight{part})"""
        for part in parts
    )
    return {
        "prepare": f"""
    silent = ConstantOfShape <value = uint8[1] {{0}}> (neurons)
    none = Constant <value = uint8 {{0}}> ()
    {_HALF}{unsigned}""",
        "end": "last_spike,",
        "state": "uint8[] fired,",
        "state_next": "uint8[] fired_next,",
        "feed_back": sums,
        "given": f"given{parts[-1]}",
        "fired": """fired_next = Cast <to = 2> (fires)
            spike = Identity (fired_next)""",
        "start": "silent,",
    }


_FIRES = "fires = Greater (charged, threshold)"
_FIRES_PROMPTLY = """above = Greater (v, threshold)
            twice = Add (threshold, v_drop)
            raised = Where (above, twice, threshold)
            fires = Greater (charged, raised)"""


def cuba_lif(name: str, *, soft_reset: bool, prompt: bool, feedback: Feedback | None, counted: bool) -> str:
    """Neurons whose current has a memory, and whose parameters may all vary within the population."""
    counting = _counting(counted)
    if counted:
        counting["count"] = Template(_COUNT_BOTH).substitute(lost_v=_LOST_ANY if soft_reset else _LOST_BELOW)
    return _CUBA_LIF.substitute(
        counting | (_NO_FEEDBACK if feedback is None else _feed_back(feedback)),
        name=name,
        parameters=(", v_drop" if soft_reset else "")
        + "".join(f", {each}" for each in (() if feedback is None else feedback.parameters)),
        leak_u=_leak("u", "keep_u"),
        leak_v=_leak("v", "keep_v"),
        fires=_FIRES_PROMPTLY if prompt else _FIRES,
        after_spike="after = Sub (charged, v_drop)" if soft_reset else "after = Identity (rest)",
    )


_UNITY = f"""
    unity = Constant <value = int32 {{{LOIHI.decay_unity}}}> ()"""


def _constant(attribute: str) -> str:
    """The statements that make an int32 scalar of an attribute, under the attribute's name."""
    return f"""
    wide_{attribute} = Constant <value_int: int = @{attribute}> ()
    {attribute} = Cast <to = 6> (wide_{attribute})"""


def _leak(state: str, keep: str) -> str:
    """``fixedpoint.decay`` in 32 bits: a state is split into a multiple of 4096 and a rest, which are scaled apart.

    Only the scaled rest is rounded. Both have the state's sign, so rounding the rest toward zero rounds the sum toward
    zero.
    """
    return f"""
            {state}_whole = Div ({state}, unity)
            {state}_rounded = Mul ({state}_whole, unity)
            {state}_rest = Sub ({state}, {state}_rounded)
            {state}_of_whole = Mul ({state}_whole, {keep})
            {state}_product = Mul ({state}_rest, {keep})
            {state}_of_rest = Div ({state}_product, unity)
            {state}_left = Add ({state}_of_whole, {state}_of_rest)"""


def relay(*, counted: bool) -> str:
    """A sum with a bias, clipped to ``limit`` on both sides."""
    return f"""
Relay <limit> (currents, bias) => (sent{", saturated" if counted else ""})
{{
    free = Add (currents, bias)
    {_saturate("sent", counted=counted)}
}}
"""


LIFT = 1 << 30
"""A multiple of every power of two that relays divide by."""


def coarse_relay(*, counted: bool) -> str:
    """A sum with a bias, divided by ``unit`` (two or more) and rounded, ties upward; then clipped as by ``relay``.

    ``fixedpoint.shift_right`` rounds down and ``Div`` toward zero, so the dividend is made positive first.
    """
    return f"""
CoarseRelay <limit, unit> (currents, bias) => (sent{", saturated" if counted else ""})
{{
    {_constant("unit")}
    two = Constant <value = int32 {{2}}> ()
    half = Div (unit, two)
    lift = Constant <value = int32 {{{LIFT}}}> ()
    lifted_by = Div (lift, unit)
    sum = Add (currents, bias)
    rounding = Add (sum, half)
    positive = Add (rounding, lift)
    quotient = Div (positive, unit)
    free = Sub (quotient, lifted_by)
    {_saturate("sent", counted=counted)}
}}
"""


def spike_matmul(bits: int, *, counted: bool) -> str:
    """A product of attention, clipped to ``limit``: y of ``bits`` bits, transposed or not, times the spikes."""
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
    none = Constant <value = uint8 {{0}}> ()
    half = Constant <value = uint8 {{{BYTE_HALF}}}> ()
    {_by_bytes(bits, "rows", "MatMulInteger ({}, gates, {})".format, "sums")}
    free = Reshape (sums, merged)
    {_saturate("product", counted=counted)}
}}
"""


def attention(name: str, *, scores_first: bool, wide: bool, counted: bool) -> str:
    """Attention of q, k and v, which are bytes of spikes or counts, times ``unit`` and clipped to ``limit``.

    Args:
        name: The name of the function.
        scores_first: Whether the first product is that of q and k; if not, it is that of k and v.
        wide: Whether the first product may exceed a byte; ONNX multiplies 32-bit integers more slowly.
        counted: Whether clipped values are counted.
    """
    first, other = ("keys, q_heads", "v_heads") if scores_first else ("v_heads, keys", "q_heads")
    if wide:
        product, cast, made, other = "MatMul", f"spikes = Cast <to = 6> ({other})", "products", "spikes"
    else:
        product, cast, made = "MatMulInteger", "bytes = Cast <to = 2> (products)", "bytes"
    second = f"{other}, {made}" if scores_first else f"{made}, {other}"
    return f"""
{name} <q_shape, k_shape, v_shape, output_shape, unit, limit> (q, k, v) => (counts{", saturated" if counted else ""})
{{
    {_constant("unit")}
    heads_of_q = Constant <value_ints: ints = @q_shape> ()
    heads_of_k = Constant <value_ints: ints = @k_shape> ()
    heads_of_v = Constant <value_ints: ints = @v_shape> ()
    merged = Constant <value_ints: ints = @output_shape> ()
    q_heads = Reshape (q, heads_of_q)
    k_heads = Reshape (k, heads_of_k)
    v_heads = Reshape (v, heads_of_v)
    keys = Transpose <perm = [0, 1, 3, 2]> (k_heads)
    products = MatMulInteger ({first})
    {cast}
    sums = {product} ({second})
    scaled = Mul (sums, unit)
    free = Reshape (scaled, merged)
    {_saturate("counts", counted=counted)}
}}
"""


def convolution(bits: int) -> str:
    """Correlations with int8 weights: of spikes if ``bits`` is 1, and of signed integers of ``bits`` bits otherwise.

    ONNX Runtime multiplies unsigned bytes exactly and fast on all processors. When it multiplies a signed and an
    unsigned byte, sums saturate at 16 bits on some processors and are slow on others, and before version 1.24 it had no
    ``ConvInteger`` for them at all. So weights become unsigned, with a zero point; a runtime that folds constants does
    that once.
    """

    def convolve(source: str, zero_point: str) -> str:
        return (
            "ConvInteger <strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations, "
            f"group: int = @group> ({source}, unsigned_weight, {zero_point}, half)"
        )

    sums = f"y = {convolve('x', 'none')}" if bits == 1 else _by_bytes(bits, "x", convolve, "y")
    return f"""
{convolution_name(bits)} <strides, pads, dilations, group> (x, weight) => (y)
{{
    none = Constant <value = uint8 {{0}}> ()
    {_UNSIGNED_WEIGHT}
    {sums}
}}
"""


def convolution_name(bits: int) -> str:
    """The name of the convolution of integers of ``bits`` bits; that of spikes, of 1 bit, has no number."""
    return "Conv2d" if bits == 1 else f"Conv2d{bits}"


def _by_bytes(bits: int, source: str, product: Callable[[str, str], str], result: str) -> str:
    """A product of 8-bit integers applied to each byte of ``source``, and the results put together.

    In two's complement, only the highest byte is signed. An offset makes it unsigned, and its zero point of 128
    (``half``) undoes the offset; the zero point of the other bytes is 0 (``none``). Padding has the value of the zero
    point, so it adds nothing.
    """
    count = bits // BYTE_BITS
    lines = [
        f"offset = Constant <value = int32 {{{1 << (bits - 1)}}}> ()",
        f"base = Constant <value = int32 {{{1 << BYTE_BITS}}}> ()",
        f"rest_0 = Add ({source}, offset)",
    ]
    for index in range(count):
        if index:
            lines.append(f"rest_{index} = Div (rest_{index - 1}, base)")
        lines.append(f"byte_{index} = Cast <to = 2> (rest_{index})")
        lines.append(f"part_{index} = {product(f'byte_{index}', 'half' if index == count - 1 else 'none')}")
    higher = f"part_{count - 1}"
    for index in reversed(range(count - 1)):
        lines.append(f"shifted_{index} = Mul ({higher}, base)")
        higher = f"joined_{index}"
        lines.append(f"{higher} = Add (shifted_{index}, part_{index})")
    lines.append(f"{result} = Identity ({higher})")
    return "\n    ".join(lines)


def _saturate(result: str, *, counted: bool) -> str:
    """The statements that clip ``free`` to [-limit, limit], and count the clipped values if ``counted``."""
    return Template(_SATURATE + _COUNT_SATURATED * counted).substitute(result=result)


def _counting(counted: bool) -> dict[str, str]:
    return dict(_COUNTED) if counted else dict.fromkeys(_COUNTED, "")
