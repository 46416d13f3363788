"""Sentences that a reader should know beside a run's results: about its input, and about what fired."""

from __future__ import annotations

from collections.abc import Mapping

from resformer.compiler.ir.summary import counted, listed

PIXELS = {255: 16.0, 65535: 4096.0}
"""For pixels of 8 and 16 bits: their largest value, and the least maximum of an input that looks like such pixels."""

NONE_FIRED = "no population ever fired, so the spikes say nothing of the network"
NO_SPIKES_OUT = "every logit is zero: no spike reached the output"


def clipping(count: int, largest: float, bounds: tuple[float, float], *, frames: bool) -> tuple[str, ...]:
    """A sentence about input values that were clipped to the range; none if nothing was clipped.

    Args:
        count: How many values were clipped.
        largest: The largest magnitude of any value of the input.
        bounds: The range that the program takes.
        frames: Whether the samples are counts of events.
    """
    if not count:
        return ()
    low, high = bounds
    were = "was" if count == 1 else "were"
    clipped = (
        f"input: {counted(count, 'value')} {were} clipped to the range that the program takes, {low:g} to {high:g}"
    )
    return (f"{clipped}; the largest is {largest:g}: {_hint(largest, high, frames=frames)}",)


def _hint(largest: float, high: float, *, frames: bool) -> str:
    if frames:
        return "compile with --calibration of such frames?"
    for most, least in PIXELS.items():
        if max(least, 2 * high) <= largest <= most:
            return f"divide by {most}?"
    return "scaled as for training (--mean, --std), or compiled with --calibration of such samples?"


def silence(fired: Mapping[str, int], chances: Mapping[str, int], *, from_nir: bool) -> tuple[str, ...]:
    """Sentences about populations that never fired, and about those that fired in every step.

    Args:
        fired: How often each population fired, in topological order.
        chances: How often each population could have fired: neurons times steps times samples.
        from_nir: Whether the network came from a NIR file, so that the user chose the length of a step, ``dt``.
    """
    never, always = never_fired(fired), always_fired(fired, chances)
    if fired and len(never) == len(fired):
        unit = ", and is --dt in the file's unit of time?" if from_nir else "?"
        return (f"{NONE_FIRED}: is its input scaled as for training{unit}",)
    lines = []
    if never:
        lines.append(f"never fired, {_of(never, fired)}")
    if always:
        lines.append(f"always fired, every neuron in every step, {_of(always, fired)}")
    return tuple(lines)


def _of(names: tuple[str, ...], fired: Mapping[str, int]) -> str:
    return f"{len(names)} of {len(fired)} populations: {listed(names)}"


def never_fired(fired: Mapping[str, int]) -> tuple[str, ...]:
    """The populations without a spike."""
    return tuple(name for name, count in fired.items() if not count)


def always_fired(fired: Mapping[str, int], chances: Mapping[str, int]) -> tuple[str, ...]:
    """The populations that fired whenever they could."""
    return tuple(name for name, count in fired.items() if count == chances[name] > 0)
