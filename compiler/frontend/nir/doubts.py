"""Finds what a NIR file leaves unsaid or says ambiguously, so that the user can be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resformer.compiler.files.nir import open_nir
from resformer.compiler.frontend.nir.content import Values, read_content

SNNTORCH_DT = 1e-4
"""Seconds per step that snnTorch's exporter assumes."""
SNNTORCH_PRECISION = 1e-5
"""Relative tolerance for snnTorch's constants, which are quotients in 32 bits."""


@dataclass(frozen=True)
class Doubts:
    """Messages about a file for the user, one for each kind of doubt; "" if there is no such doubt.

    Attributes:
        endless: Names neurons with an infinite tau and a finite r, which are read as IF neurons. By the letter of NIR's
            equation, tau dv/dt = (v_leak - v) + r * input, they would stay at rest whatever their input is.
        resets: Names populations that seem to be snnTorch's, if the file does not say how they reset. NIR defines a
            hard reset. snnTorch subtracts the threshold unless told otherwise, and its exporter writes the same file
            in both cases.
        counts: Names IF neurons that may fire several spikes per step, if the file does not say how they reset.
    """

    endless: str
    resets: str
    counts: str


def doubts_of(path: str | Path) -> Doubts:
    """Read a file, and find what it leaves unsaid or says ambiguously.

    Raises:
        FileFormatError: The file is absent, damaged, or no network.
    """
    nodes = open_nir(path, read_content).nodes

    def about(is_one: Callable[[Values], bool], sentence: str) -> str:
        names = [name for name, values in nodes.items() if is_one(values)]
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"{names[0]}{others}: {sentence}" if names else ""

    return Doubts(
        about(
            _is_endless,
            "tau is infinite and r is not, so by NIR's equation nothing ever moves these neurons; they are read as IF "
            "neurons, dv/dt = r * input",
        ),
        about(
            lambda values: _is_snntorchs(values) and not _states(values, "reset"),
            "the file does not say how these neurons reset, so they do as NIR defines it (hard). They seem to be "
            "snnTorch's, which subtract the threshold a step late unless told otherwise: if so, --reset late, or "
            "prompt where they were given reset_delay=False",
        ),
        about(
            lambda values: values["type"] == "IF" and not _states(values, "reset", "spikes_per_step"),
            "the file does not say how these IF neurons reset, so they fire once a step and reset to v_reset. Sinabs' "
            "IAF fires several spikes a step and subtracts: if so, --spikes-per-step multi (and --min-v)",
        ),
    )


def _states(values: Values, *facts: str) -> bool:
    """Whether a node's metadata hold any of the keys ``facts``."""
    return not set(facts).isdisjoint(values.get("metadata", {}))


def _is_endless(values: Values) -> bool:
    """Whether some of a node's neurons have an infinite time constant of their potential and a finite r."""
    r = values.get("r", np.inf)
    return any((np.isinf(values.get(tau, 0.0)) & np.isfinite(r)).any() for tau in ("tau", "tau_mem"))


def _is_snntorchs(values: Values) -> bool:
    """Whether a node's constants are as snnTorch writes them: r is tau and w_in is tau_syn, both in steps of 0.1 ms."""
    pairs = {"LIF": [("tau", "r")], "CubaLIF": [("tau_mem", "r"), ("tau_syn", "w_in")]}.get(values["type"], [])
    given = [(np.asarray(values.get(tau, 0.0)), np.asarray(values.get(steps, 1.0))) for tau, steps in pairs]
    return bool(given) and all(
        np.allclose(tau, steps * SNNTORCH_DT, rtol=SNNTORCH_PRECISION, atol=0.0) for tau, steps in given
    )
