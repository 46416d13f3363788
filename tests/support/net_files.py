"""Netx networks (``.net``) for tests, in the form that lava-dl writes, and an independent model of their neurons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

Fields = dict[str, Any]


def neurons(**values: Any) -> Fields:
    """CUBA neurons without memory of their current, whose potential halves each step; ``values`` replaces fields."""
    return {
        "type": b"CUBA",
        "iDecay": 4096,
        "vDecay": 2048,
        "vThMant": 20,
        "refDelay": 1,
        "gradedSpike": False,
    } | values


def pixels(*shape: int, weight: int = 40, bias: int = 3, **values: Any) -> Fields:
    """An input layer with neurons."""
    return {"type": [b"input"], "shape": shape, "weight": weight, "bias": bias, "neuron": neurons(**values)}


def spikes(*shape: int) -> Fields:
    """An input layer that is given spikes."""
    return {"type": [b"input"], "shape": shape}


def conv(weight: npt.NDArray[Any], shape: tuple[int, ...], *, neuron: Fields | None = None, **values: Any) -> Fields:
    given = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1, **values}
    return {"type": [b"conv"], "shape": shape, "weight": weight, "neuron": neuron or neurons(), **given}


def flatten(size: int) -> Fields:
    return {"type": [b"flatten"], "shape": (size, 1, 1)}


def dense(weight: npt.NDArray[Any], *, neuron: Fields | None = None, **values: Any) -> Fields:
    return {"type": [b"dense"], "shape": (len(weight),), "weight": weight, "neuron": neuron or neurons(), **values}


def without(fields: Fields, *names: str) -> Fields:
    return {name: value for name, value in fields.items() if name not in names}


def write_net(path: Path, *layers: Fields, steps: int | None = None) -> Path:
    """Write layers; ``steps`` is the simulation's tSample."""
    with h5py.File(path, "w") as file:
        for index, layer in enumerate(layers):
            _write(file.create_group(f"layer/{index}"), layer)
        if steps is not None:
            file["simulation/Ts"], file["simulation/tSample"] = 1, steps
    return path


def _write(group: h5py.Group, fields: Fields) -> None:
    for name, value in fields.items():
        if isinstance(value, dict):
            _write(group.create_group(name), value)
        elif value is not None:
            group[name] = value


def even(rng: np.random.Generator, shape: tuple[int, ...], largest: int = 40) -> npt.NDArray[np.float32]:
    """Random even weights, as lava-dl makes them, in the type in which it stores them."""
    return (2 * rng.integers(-largest // 2, largest // 2 + 1, shape)).astype(np.float32)


def lava_spikes(
    currents: npt.NDArray[np.int64],
    *,
    i_decay: Any,
    v_decay: Any,
    vth: Any,
    bias: Any = 0,
    recurrent: npt.NDArray[Any] | None = None,
) -> npt.NDArray[np.int64]:
    """Loihi's neurons, one number at a time, in Python's own integers.

    Args:
        currents: (T, F), the sums of the synapses.
        i_decay, v_decay, vth, bias: For all or for each neuron, as a file has them.
        recurrent: (F, F), weights of the spikes one step ago.
    """
    steps, count = currents.shape
    made = np.zeros((steps, count), dtype=np.int64)
    spread = [np.broadcast_to(each, count).tolist() for each in (i_decay, v_decay, vth, bias)]
    u, v, before = [0] * count, [0] * count, [0] * count
    for step in range(steps):
        for each, (du, dv, threshold, constant) in enumerate(zip(*spread, strict=True)):
            came = int(currents[step, each])
            if recurrent is not None:
                came += sum(int(recurrent[each, other]) * before[other] for other in range(count))
            u[each] = toward_zero(u[each] * (4096 - int(du))) + 64 * came
            v[each] = toward_zero(v[each] * (4096 - int(dv))) + u[each] + 64 * int(constant)
            if v[each] > 64 * int(threshold):
                made[step, each], v[each] = 1, 0
        before = made[step].tolist()
    return made


def toward_zero(value: int) -> int:
    """value / 4096 without its fraction."""
    return -(-value // 4096) if value < 0 else value // 4096
