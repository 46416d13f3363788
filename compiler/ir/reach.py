"""What bounds prove of neurons before anything runs: which populations can never fire, and which always do.

The bounds are those of range analysis, channel by channel: the largest and the smallest input that a population can
get in a step, whatever the samples. Until the first spike nothing is reset, so a potential is largest if each step
brings the largest input; if it then stays at or below the threshold for a sample's T steps, there is no spike. If
neurons fire in every step even with the smallest input, they fire in every step with any input.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import nir
import numpy as np

from resformer.compiler.ir import fixedpoint
from resformer.compiler.ir.arrays import Int64Array
from resformer.compiler.ir.bounds import interval_of
from resformer.compiler.ir.graph import Graph, Node
from resformer.compiler.ir.interval import Interval
from resformer.compiler.ir.neurons import decays
from resformer.compiler.ir.ops import LIF, Op, RecurrentCubaLIF, Relay, Spiking
from resformer.compiler.ir.primitives import DiscreteCubaLI, DiscreteCubaLIF, collapse
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.summary import counted, listed
from resformer.compiler.target import LOIHI

SLOW_STEPS = 1000
"""A time constant of this many steps is longer than any that networks are trained with."""
SLOW_SAMPLES = 10
"""With a time constant of this many samples, next to nothing leaks within one sample."""
USUAL_STEPS = 20
"""A usual time constant, in steps; the ``dt`` that a warning suggests is chosen to give it."""


@dataclass(frozen=True)
class Silent:
    """A population that can never fire.

    Attributes:
        name: The population.
        share: The largest potential that any sample brings it to, in thresholds.
        longer_step: The approximate factor by which a step must be longer for the input to reach the threshold; None
            if it does not with a step of any length.
        starved: Whether it cannot fire only because populations that it reads cannot.
    """

    name: str
    share: float
    longer_step: float | None
    starved: bool


@dataclass(frozen=True)
class Reach:
    """What is proved of a program's populations.

    Attributes:
        silent: Those that can never fire, in topological order.
        constant: Those that fire in every step, whatever the sample.
    """

    silent: tuple[Silent, ...]
    constant: tuple[str, ...]


def reach(program: Program) -> Reach:
    """Find the populations that the bounds prove to be silent or to fire in every step.

    Args:
        program: After range analysis.
    """
    rooted, constant = _prove(program)
    # what only silent populations feed is silent too, and so on
    found = _prove(program, spread=True)[0] if rooted else rooted
    silent = (Silent(name, *rooted.get(name, facts), starved=name not in rooted) for name, facts in found.items())
    return Reach(tuple(silent), tuple(constant))


def _prove(program: Program, *, spread: bool = False) -> tuple[dict[str, tuple[float, float | None]], list[str]]:
    """The populations that can never fire, each with its ``share`` and ``longer_step``, and those that always fire.

    Args:
        program: After range analysis.
        spread: Whether a population that can never fire counts as silent for its readers.
    """
    intervals: dict[str, Interval] = {}
    silent: dict[str, tuple[float, float | None]] = {}
    constant = []
    for node in program:
        inputs = [intervals[name] for name in node.inputs]
        intervals[node.name] = interval_of(program, node, inputs)
        if not isinstance(node.op, Spiking):
            continue
        given = _given(program, node, intervals)
        share = _largest_share(node, given, program.timesteps)
        if share is not None:
            silent[node.name] = share, _longer_step(node.op, given, share)
            if spread:
                intervals[node.name] = Interval.between(0, 0)
        elif _always_fires(node, given, program.timesteps):
            constant.append(node.name)
    return silent, constant


def _given(program: Program, node: Node[Op], intervals: Mapping[str, Interval]) -> Interval:
    """The bounds on a population's input in a step.

    Behind a relay they are computed from the relay's own input, because a relay's interval always includes zero.
    """
    source = program[node.inputs[0]]
    if not isinstance(source.op, Relay):
        return intervals[source.name]
    before = intervals[source.inputs[0]]
    channels = source.shape[0], *(1,) * (len(source.shape) - 1)
    low, high = (
        # a relay's output grows with its input
        source.op.evaluate(np.broadcast_to(bound, channels[:1]).reshape(1, 1, *channels)).value.reshape(-1)
        for bound in (before.low, before.high)
    )
    return Interval(low, high)


def _largest_share(node: Node[Op], given: Interval, timesteps: int) -> float | None:
    """The largest potential in thresholds if no neuron can fire; None if one can."""
    assert isinstance(node.op, Spiking)
    # before the first spike, recurrent synapses add nothing
    op = node.op.without_synapses() if isinstance(node.op, RecurrentCubaLIF) else node.op
    thresholds = np.maximum(op.thresholds << LOIHI.a_shift, 1)
    share = -np.inf
    for state in _steps(op, given.high, node.shape, timesteps):
        if state.spikes.any():
            return None
        share = max(share, float((state.charged / thresholds).max()))
    return share


def _always_fires(node: Node[Op], given: Interval, timesteps: int) -> bool:
    """Whether every neuron fires in every step; False for recurrent neurons, for which this is not examined."""
    assert isinstance(node.op, Spiking)
    if isinstance(node.op, RecurrentCubaLIF):
        return False
    return all(bool(state.spikes.all()) for state in _steps(node.op, given.low, node.shape, timesteps))


def _steps(op: Spiking, given: Int64Array, shape: tuple[int, ...], timesteps: int) -> Iterator[fixedpoint.LifStep]:
    """The steps of one sample with the same input, (C,) or (1,), in each step, until nothing changes any more."""
    channels = np.broadcast_to(given, shape[:1]).reshape(-1, *(1,) * (len(shape) - 1))
    before: fixedpoint.LifStep | None = None
    for state in op.steps(np.broadcast_to(channels, (timesteps, 1, *channels.shape))):
        yield state
        if before is not None and np.array_equal(before.u, state.u) and np.array_equal(before.v, state.v):
            return  # all later steps are the same
        before = state


def _longer_step(op: Spiking, given: Interval, share: float) -> float | None:
    """The factor by which a step must be longer for the input to reach the threshold; None if no step is long enough.

    What the input adds is taken to grow with the step. It does so in neurons of continuous time, until a step is as
    long as the time constant and nothing is left of the step before.
    """
    if share <= 0:
        return None
    if isinstance(op, LIF) and op.dv:
        most = ((given.high << LOIHI.a_shift) + op.bias).max() * LOIHI.decay_unity / op.dv
        if most <= op.vth << LOIHI.a_shift:
            return None
    return 1 / share


def reach_warnings(program: Program) -> tuple[str, ...]:
    """What is proved of a program's populations, as sentences for its user; empty if nothing is proved.

    Args:
        program: After range analysis.
    """
    found = reach(program)
    lines = []
    roots = [each for each in found.silent if not each.starved]
    if roots:
        nearest = max(each.share for each in roots)
        potential = (
            f"the largest potential in {counted(program.timesteps, 'step')} is {nearest:.3g} of the threshold"
            if nearest > 0
            else "no input raises the potential"
        )
        everything = "no population can ever fire: " if len(found.silent) == len(program.spiking_names) else ""
        names = listed([each.name for each in roots])
        lines.append(f"{everything}{names}: can never fire: {potential}, whatever the input; {_remedy(program, roots)}")
    starved = [each.name for each in found.silent if each.starved]
    if starved:
        lines.append(
            f"{listed(starved)}: can never fire, since what {'they' if starved[1:] else 'it'} would read cannot"
        )
    if found.constant:
        lines.append(
            f"{listed(found.constant)}: every neuron fires in every step, whatever the input: its bias alone passes "
            "its threshold; look at both"
        )
    return tuple(lines)


def _remedy(program: Program, roots: Collection[Silent]) -> str:
    """The advice to a user about populations that cannot fire."""
    steps = [each.longer_step for each in roots]
    longest = max((step for step in steps if step is not None), default=None)
    if program.metadata.get("source") != "nir" or longest is None:
        return "look at its weights, biases and threshold"
    dt = float(program.metadata["dt"])
    return _other_step(dt, f"of at least {dt * longest:.2g}")


def time_warnings(graph: Graph[nir.NIRNode]) -> tuple[str, ...]:
    """A warning if the step of a NIR file's graph seems to be in another unit than its time constants; else empty.

    Args:
        graph: As imported. Only the graph of a NIR file has a step that its user chose; others get no warning.
    """
    if graph.metadata.get("source") != "nir":
        return ()
    dt = float(graph.metadata["dt"])
    lost = list(chain.from_iterable(_lost_in_a_step(node.op, dt) for node in graph))
    if not lost:
        return ()
    steps = 1 / max(lost)
    if steps < max(SLOW_STEPS, SLOW_SAMPLES * graph.timesteps):
        return ()
    warning = (
        f"the shortest time constant is {steps:,.0f} steps, and a sample has {graph.timesteps}: next to nothing leaks; "
        f"{_other_step(dt, f'such as {dt * steps / USUAL_STEPS:.2g}')}"
    )
    return (warning,)


def _other_step(dt: float, plausible: str) -> str:
    return f"if --dt ({dt:.3g}) is in another unit than the file's, give another, {plausible}"


def _lost_in_a_step(op: nir.NIRNode, dt: float) -> Iterator[float]:
    """The largest share of its states that a population loses in a step, if it loses any."""
    match op:
        case nir.LIF() | nir.LI() | nir.CubaLIF() | nir.CubaLI():
            lost = decays(op, dt)
            mem, syn = lost.mem, lost.syn
        case DiscreteCubaLIF() | DiscreteCubaLI():
            mem, syn = collapse(op.mem_decay), collapse(op.syn_decay)
        case _:  # no neurons, or neurons without a time constant
            return
    # a current that loses everything in a step has no time constant
    shares = [mem] if (syn == 1).all() else [mem, syn]
    largest = max(float(each.max()) for each in shares)
    if largest > 0:
        yield largest
