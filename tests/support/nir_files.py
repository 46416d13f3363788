"""NIR files for tests: those that other frameworks wrote, and small ones made here."""

from __future__ import annotations

import gzip
import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import nir
import numpy as np
import numpy.typing as npt
import pytest

DATA = Path(__file__).parents[1] / "data" / "nir"
FRAMEWORKS = ("norse", "sinabs", "snntorch", "snntorch_recurrent", "spikingjelly")


@dataclass(frozen=True)
class Written:
    """What a script of ``examples/nir`` wrote.

    Attributes:
        path: The network.
        samples: (N, T, ...), zeros and ones.
        spikes: (T, N, F), the framework's output for the samples.
        dt: A step in the file's unit of time.
    """

    path: Path
    samples: npt.NDArray[np.float64]
    spikes: npt.NDArray[np.bool_]
    dt: float

    @property
    def timesteps(self) -> int:
        return len(self.spikes)


def written(framework: str, folder: Path) -> Written:
    """The committed files of a framework, unpacked."""
    path = folder / "network.nir"
    path.write_bytes(gzip.decompress((DATA / framework / "network.nir.gz").read_bytes()))
    return read_written(path, DATA / framework / "spikes.npz")


def read_written(path: Path, record: Path) -> Written:
    with np.load(record) as arrays:
        output = arrays["output"].swapaxes(0, 1)
        spikes = output.reshape(*output.shape[:2], -1)
        return Written(path, arrays["input"].astype(np.float64), spikes, float(arrays["dt"]))


def lif(shape: tuple[int, ...], *, reset: str = "", **values: Any) -> nir.LIF:
    """Neurons whose potential halves each step of 0.1 ms; ``values`` replaces parameters."""
    given = {"tau": 2e-4, "r": 2.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0, **values}
    arrays = {key: np.broadcast_to(np.float64(value), shape).copy() for key, value in given.items()}
    return nir.LIF(**arrays, metadata={"reset": reset} if reset else {})


NOT_INSTALLED = {
    "spikingjelly": "SpikingJelly 2 cannot stand beside the authors' 0.0.0.0.14",
    "sinabs": "Sinabs brings samna, a vendor's binary",
}
"""Frameworks that ``make setup`` leaves out, and why."""


def import_framework(framework: str, module: str) -> ModuleType:
    """A framework's module; if missing, skips the test where ``make setup`` leaves the framework out, else fails."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if framework not in NOT_INSTALLED:
            raise
        pytest.skip(f"{NOT_INSTALLED[framework]}; install it in another environment to run this ({error})")


def cuba_lif(shape: tuple[int, ...], *, reset: str = "", **values: Any) -> nir.CubaLIF:
    """Neurons that lose 1/4 of current and 1/2 of potential each step of 0.1 ms; ``values`` replaces parameters."""
    given = {"tau_syn": 4e-4, "tau_mem": 2e-4, "r": 2.0, "w_in": 4.0, "v_leak": 0.0, "v_threshold": 1.0, **values}
    given = {"v_reset": 0.0, **given}
    arrays = {key: np.broadcast_to(np.float64(value), shape).copy() for key, value in given.items()}
    return nir.CubaLIF(**arrays, metadata={"reset": reset} if reset else {})


def conv2d(weight: npt.NDArray[np.float64], bias: npt.NDArray[np.float64] | None = None, **values: Any) -> nir.Conv2d:
    given = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **values}
    bias = np.zeros(len(weight)) if bias is None else bias
    return nir.Conv2d(input_shape=(1, 1), weight=weight, bias=bias, **given)


def pool(kind: type[nir.NIRNode], size: int, stride: int | None = None, padding: int = 0) -> nir.NIRNode:
    pairs = (np.array([each, each]) for each in (size, size if stride is None else stride, padding))
    return kind(**dict(zip(("kernel_size", "stride", "padding"), pairs, strict=True)))


def flatten(shape: tuple[int, ...]) -> nir.Flatten:
    return nir.Flatten({"input": np.array(shape)}, start_dim=0)


def chain(shape: tuple[int, ...], *nodes: nir.NIRNode) -> nir.NIRGraph:
    """Nodes ``n0``, ``n1``, ... one after the other."""
    names = [f"n{index}" for index in range(len(nodes))]
    return graph(
        shape, dict(zip(names, nodes, strict=True)), list(zip(["input", *names], [*names, "output"], strict=True))
    )


def graph(shape: tuple[int, ...], nodes: dict[str, nir.NIRNode], edges: list[tuple[str, str]]) -> nir.NIRGraph:
    ends = {"input": nir.Input({"input": np.array(shape)}), "output": nir.Output({"output": np.array([1])})}
    return nir.NIRGraph(nodes={**ends, **nodes}, edges=edges, type_check=False)


def write(path: Path, content: nir.NIRGraph) -> Path:
    nir.write(path, content)
    return path
