"""Neurons in steps: what NIR's neurons of continuous time, and each way to reset, become in steps of ``dt`` seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.primitives import DiscreteCubaLI, DiscreteCubaLIF, collapse, constant
from resformer.errors import UnsupportedError

Float64Array = npt.NDArray[np.float64]

Continuous: TypeAlias = "nir.LIF | nir.IF | nir.CubaLIF | nir.LI | nir.I | nir.CubaLI"
"""NIR's neurons, which are in continuous time."""

ONE_STEP_TOLERANCE = 1e-5
"""How much shorter than dt, relatively, a time constant of one step may be, since files may hold it in 32 bits."""

HARD, SOFT, LATE, PROMPT = "hard", "soft", "late", "prompt"
RESETS = (HARD, SOFT, LATE, PROMPT)
"""The values of ``reset`` in the metadata of neurons.

- hard: a spike sets v to v_reset.
- soft: a spike takes v_threshold from v.
- late: the next step takes v_threshold from v, after v has leaked and charged. This is snnTorch's
  ``reset_mechanism="subtract"``.
- prompt: a spike takes v_threshold from v, and a neuron that is still above v_threshold then fires in the next step
  only above twice v_threshold. This is snnTorch's ``reset_mechanism="subtract"`` with ``reset_delay=False``.
"""


@dataclass(frozen=True)
class Decays:
    """What a step takes from the states of neurons, and what their input adds; arrays that broadcast.

    Attributes:
        syn: The share of the current that a step takes.
        mem: The share of the potential that a step takes.
        gain: What an input of one adds to the potential in its step.
        rest: The potential that neurons leak to.
    """

    syn: Float64Array
    mem: Float64Array
    gain: Float64Array
    rest: Float64Array


def decays(neurons: Continuous, dt: float) -> Decays:
    """The decays of one step of forward Euler; neurons whose current has no memory lose all of it (``syn`` is 1).

    A LIF with an infinite time constant is an IF: it does not leak, and dv/dt = r * input.
    """
    r = collapse(neurons.r)
    match neurons:
        case nir.IF() | nir.I():
            return Decays(np.ones(()), np.zeros(()), r * dt, np.zeros(()))
        case nir.LIF() | nir.LI():
            mem = dt_over_tau(neurons, dt)
            return Decays(np.ones(()), mem, _per_step(r, mem, dt), collapse(neurons.v_leak))
    mem, syn = dt / collapse(neurons.tau_mem), dt / collapse(neurons.tau_syn)
    return Decays(syn, mem, _per_step(r, mem, dt) * (collapse(neurons.w_in) * syn), collapse(neurons.v_leak))


def _per_step(r: Float64Array, mem: Float64Array, dt: float) -> Float64Array:
    """What a current of one adds to the potential in a step, if the potential loses a share ``mem`` in it."""
    return r * np.where(mem == 0, dt, mem)


def dt_over_tau(neurons: nir.LIF | nir.LI, dt: float) -> Float64Array:
    """The share of its potential that a neuron loses in a step; its metadata may state this share exactly."""
    if "dt_over_tau" in neurons.metadata:
        return np.asarray(float(neurons.metadata["dt_over_tau"]))
    if "tau_steps" in neurons.metadata:
        return np.asarray(1.0 / float(neurons.metadata["tau_steps"]))
    return dt / collapse(neurons.tau)


def _stable_decays(name: str, neurons: Continuous, dt: float) -> Decays:
    """The decays of neurons; in one step they must not lose more of a state than they have.

    Raises:
        UnsupportedError: A step is longer than a time constant.
    """
    step = decays(neurons, dt)
    fastest = max(float(step.syn.max()), float(step.mem.max()))
    if fastest > 1 + ONE_STEP_TOLERANCE:
        raise UnsupportedError(
            f"{name}: a time constant is {1 / fastest:.4g} steps; it must be one step or more, so choose a shorter --dt"
        )
    return replace(step, syn=np.minimum(step.syn, 1.0), mem=np.minimum(step.mem, 1.0))


def discrete_integrator(
    name: str, neurons: nir.LI | nir.I | nir.CubaLI, dt: float, shape: tuple[int, ...]
) -> DiscreteCubaLI:
    """Neurons that do not fire, in steps and of shape ``shape``; their potential begins at the level that it leaks to.

    Raises:
        UnsupportedError: A step is longer than a time constant.
    """
    step = _stable_decays(name, neurons, dt)
    return DiscreteCubaLI(
        syn_decay=np.broadcast_to(step.syn, shape),
        mem_decay=np.broadcast_to(step.mem, shape),
        gain=np.broadcast_to(step.gain, shape),
        v_leak=np.broadcast_to(step.rest, shape),
    )


def discrete(name: str, neurons: nir.LIF | nir.IF | nir.CubaLIF, dt: float, shape: tuple[int, ...]) -> DiscreteCubaLIF:
    """The neurons in steps; their potential is counted from v_reset, in units of what an input of one adds.

    Args:
        name: The node's name, for errors.
        neurons: The neurons in continuous time.
        dt: Seconds a step.
        shape: The shape that the population gets: its own, or the same number of neurons on other axes.

    Raises:
        UnsupportedError: An input lowers the potential or does not change it; v_threshold is not above v_reset; a step
            is longer than a time constant; or a reset by subtraction has a v_reset other than 0, or comes late although
            nothing is kept of a step.
    """
    reset = neurons.metadata["reset"]
    step = _stable_decays(name, neurons, dt)
    if not (step.gain > 0).all():
        raise UnsupportedError(
            f"{name}: an input of one changes the potential by {step.gain.min():.4g} (r, w_in, dt and the time "
            "constants); it must raise it, so turn the signs of the weights before it"
        )
    base = collapse(neurons.v_reset)
    height = (collapse(neurons.v_threshold) - base) / step.gain
    if not (height > 0).all():
        raise UnsupportedError(
            f"{name}: v_threshold must be above v_reset; the least difference is {(height * step.gain).min():.4g}"
        )
    drop = np.zeros(())
    if reset != HARD:
        if base.any():
            raise UnsupportedError(f"{name}: resets by subtraction, so its v_reset must be 0, not {base.max():.4g}")
        if reset == LATE and (step.mem == 1).any():
            raise UnsupportedError(f"{name}: resets a step late, but keeps nothing of a step; reset it at once")
        drop = height / (1 - step.mem) if reset == LATE else height
    fields = {
        "syn_decay": step.syn,
        "mem_decay": step.mem,
        "v_threshold": height,
        "v_bias": step.mem * (step.rest - base) / step.gain,
        "v_drop": drop,
    }
    return DiscreteCubaLIF(
        **{key: reshaped(np.broadcast_to(value, neurons.v_threshold.shape), shape) for key, value in fields.items()},
        soft_reset=reset != HARD,
        metadata={"fires_at": neurons.metadata["fires_at"]} | ({"reset": PROMPT} if reset == PROMPT else {}),
    )


def reshaped(values: Float64Array, shape: tuple[int, ...]) -> Float64Array:
    """A parameter of a population in another shape; if it is one value for all neurons, it takes no memory."""
    distinct = collapse(values)
    return constant(float(distinct.flat[0]), shape) if distinct.size == 1 else values.reshape(shape)
