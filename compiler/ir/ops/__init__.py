"""The integer operations, each with all that the compiler must know of it (the interface is in ``base``)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from resformer.compiler.ir.ops.attention import SpikeMatMul
from resformer.compiler.ir.ops.base import Carried, Op, Outcome
from resformer.compiler.ir.ops.counts import SpikeAttention
from resformer.compiler.ir.ops.delays import Delay, SampleDelay
from resformer.compiler.ir.ops.formats import Shapes
from resformer.compiler.ir.ops.gates import SpikeGate
from resformer.compiler.ir.ops.levels import IntegerLIF
from resformer.compiler.ir.ops.multi_spike import MOST_SPIKES, MultiSpikeIF
from resformer.compiler.ir.ops.neurons import LIF, CubaLI, CubaLIF, RecurrentCubaLIF, Spiking
from resformer.compiler.ir.ops.prompt import PromptCubaLIF
from resformer.compiler.ir.ops.stacked import StackedRecurrentCubaLIF
from resformer.compiler.ir.ops.sums import Add, CeilMaxPool2d, Flatten, Input, MaxPool2d, Output, Relay
from resformer.compiler.ir.ops.synapses import Conv2d, Dense, SumPool2d, Synapses

OPERATIONS: Mapping[str, type[Op]] = MappingProxyType(
    {
        each.__name__: each
        for each in (
            Input,
            Conv2d,
            Dense,
            SumPool2d,
            MaxPool2d,
            CeilMaxPool2d,
            Add,
            Relay,
            LIF,
            CubaLIF,
            PromptCubaLIF,
            RecurrentCubaLIF,
            StackedRecurrentCubaLIF,
            CubaLI,
            MultiSpikeIF,
            IntegerLIF,
            SampleDelay,
            SpikeGate,
            SpikeMatMul,
            SpikeAttention,
            Delay,
            Flatten,
            Output,
        )
    }
)
"""All integer operations, by the names that they have in programs' files."""

__all__ = [
    "LIF",
    "MOST_SPIKES",
    "OPERATIONS",
    "Add",
    "Carried",
    "CeilMaxPool2d",
    "Conv2d",
    "CubaLI",
    "CubaLIF",
    "Delay",
    "Dense",
    "Flatten",
    "Input",
    "IntegerLIF",
    "MaxPool2d",
    "MultiSpikeIF",
    "Op",
    "Outcome",
    "Output",
    "PromptCubaLIF",
    "RecurrentCubaLIF",
    "Relay",
    "SampleDelay",
    "Shapes",
    "SpikeAttention",
    "SpikeGate",
    "SpikeMatMul",
    "Spiking",
    "StackedRecurrentCubaLIF",
    "SumPool2d",
    "Synapses",
]
