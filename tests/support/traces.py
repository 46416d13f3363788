"""Exact comparison of what two backends did."""

from __future__ import annotations

from numpy.testing import assert_array_equal

from resformer.compiler.ir.trace import Trace


def assert_same_trace(trace: Trace, reference: Trace) -> None:
    """Require equal logits, spikes and graded values, bit for bit, and equal saturation counts if the trace has any."""
    assert_array_equal(trace.logits, reference.logits)
    assert trace.logits.dtype == reference.logits.dtype
    assert trace.spikes.keys() == reference.spikes.keys()
    for name, train in reference.spikes.items():
        assert_array_equal(trace.spikes[name].dense(), train.dense(), err_msg=name)
        assert_array_equal(trace.spikes[name].packed, train.packed, err_msg=name)
    assert trace.graded.keys() == reference.graded.keys()
    for name, values in reference.graded.items():
        assert_array_equal(trace.graded[name], values, err_msg=name)
        assert trace.graded[name].dtype == values.dtype
    assert trace.saturated == {name: reference.saturated[name] for name in trace.saturated}
