"""A check of what the verification of a compiled module found."""

from __future__ import annotations

import torch

from resformer.compiler.pipeline import MODULE
from resformer.runtime.compiled import Compiled
from resformer.runtime.verify.result import BACKEND, FLOAT_GRAPH, QUANTIZED


def assert_equal(compiled: Compiled, samples: torch.Tensor, *, exact: bool = True) -> None:
    """Require that nothing differs in any demanded check, and that every population fires now and then.

    Args:
        compiled: The module, compiled for the simulator.
        samples: What it is verified with.
        exact: Whether equality with the quantized module must be demanded and hold; if not, it must not be demanded.
    """
    result = compiled.verify(samples, backend="sim")
    assert result.equivalent
    spikes = sum(result.layers.values())
    for name, compared in {FLOAT_GRAPH: (len(MODULE.float_passes) + 1) * spikes, BACKEND: spikes}.items():
        assert (result.checks[name].compared, result.checks[name].mismatched) == (compared, 0)
    assert result.checks[QUANTIZED].demanded == exact, result.checks[QUANTIZED].note
    if exact:
        assert result.checks[QUANTIZED].mismatched == 0
    trains = compiled.run(samples, backend="sim", record=True).spikes
    rates = {name: train.count / train.size for name, train in trains.items()}
    assert all(0 < rate < 1 for rate in rates.values()), rates
