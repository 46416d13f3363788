"""A clocked simulation: what a chip does, one step at a time, with the samples streaming through back to back.

It shares with the reference only the evaluation of one operation at one step; it keeps time itself. Every synapse
sends what it received one step ago, and a delay what it received some steps ago. Neurons, and nothing else, are reset
when a new sample reaches them, so every node must cope with what the pipeline holds before the first sample.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from resformer.compiler.ir import fixedpoint, ops
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.trace import SpikeTrain, Trace

IntArray = npt.NDArray[np.int64]

SYNAPSES = (ops.Conv2d, ops.Dense, ops.SumPool2d, ops.SpikeMatMul)


def run_clocked(program: Program, samples: npt.NDArray[np.integer]) -> Trace:
    """Stream samples through a scheduled program and cut each node's record at its own step."""
    assert program.offsets is not None
    timesteps, count = program.timesteps, len(samples)
    sent = _Clock(program, samples).run(max(program.offsets.values()) + count * timesteps)
    records: dict[str, IntArray] = {}
    for node in program:
        start = program.offsets[node.name]
        stream = np.stack(sent[node.name][start : start + count * timesteps])
        records[node.name] = stream.reshape(count, timesteps, *node.shape).swapaxes(0, 1)
    return Trace(
        logits=records[program.output.name],
        spikes={name: SpikeTrain.pack(records[name]) for name in program.lif_names},
        graded={
            node.name: records[node.name].astype(np.int32) for node in program if node.op.recorded and not node.op.fires
        },
    )


class _Clock:
    """The state of all processes."""

    def __init__(self, program: Program, samples: npt.NDArray[np.integer]) -> None:
        self.program = program
        self.samples = samples
        self.sent: dict[str, list[IntArray]] = {node.name: [] for node in program}
        self.state = {name: (self.zeros(name),) * 3 for name in program.lif_names}
        self.integrals: dict[str, tuple[IntArray, IntArray]] = {}

    def run(self, steps: int) -> dict[str, list[IntArray]]:
        """Advance some steps; returns what every node sent at each step."""
        for step in range(steps):
            for node in self.program:
                self.sent[node.name].append(self.tick(node, step).reshape(node.shape))
        return self.sent

    def tick(self, node: ops.ProgramNode, step: int) -> IntArray:
        op = node.op
        if isinstance(op, ops.Input):
            return self.frame(step)
        if isinstance(op, ops.Delay):
            return self.received(node.inputs[0], step - op.steps)
        if isinstance(op, ops.SampleDelay):
            return self.wait(node, op, step)
        if isinstance(op, ops.CubaLI):
            return self.integrate(node, op, step)
        if op.fires:
            return self.fire(node, op, step)
        at = step - 1 if isinstance(op, SYNAPSES) else step
        value, _ = op.evaluate(*(self.received(name, at)[None, None] for name in node.inputs))
        return value

    def zeros(self, name: str) -> IntArray:
        return np.zeros(self.program[name].shape, dtype=np.int64)

    def received(self, source: str, step: int) -> IntArray:
        return self.sent[source][step] if step >= 0 else self.zeros(source)

    def frame(self, step: int) -> IntArray:
        sample, t = divmod(step, self.program.timesteps)
        if sample >= len(self.samples):
            return self.zeros(self.program.input.name)
        image = self.samples[sample]
        return np.asarray(image if self.samples.ndim == 4 else image[t], dtype=np.int64)

    def wait(self, node: ops.ProgramNode, op: ops.SampleDelay, step: int) -> IntArray:
        assert self.program.offsets is not None
        begun = (step - self.program.offsets[node.name]) % self.program.timesteps
        arrived = self.zeros(node.name)
        for late in range(begun + 1):
            np.copyto(arrived, self.received(node.inputs[0], step - late), where=op.steps == late)
        return arrived

    def integrate(self, node: ops.ProgramNode, op: ops.CubaLI, step: int) -> IntArray:
        assert self.program.offsets is not None
        u, v = self.integrals.get(node.name, (self.zeros(node.name),) * 2)
        if (step - self.program.offsets[node.name]) % self.program.timesteps == 0:
            u, v = self.zeros(node.name), self.zeros(node.name)
        u, v, _ = fixedpoint.cuba_li_step(u, v, self.received(node.inputs[0], step), op.parameters())
        self.integrals[node.name] = u, v
        return v

    def fire(self, node: ops.ProgramNode, op: ops.LIF | ops.CubaLIF, step: int) -> IntArray:
        assert self.program.offsets is not None
        u, v, fired = self.state[node.name]
        if (step - self.program.offsets[node.name]) % self.program.timesteps == 0:
            u, v, fired = (self.zeros(node.name) for _ in range(3))
        a = self.received(node.inputs[0], step)
        if isinstance(op, ops.CubaLIF):
            if isinstance(op, ops.RecurrentCubaLIF):
                a = a + op.synapses().evaluate(fired[None, None])[0].reshape(a.shape)
            state = fixedpoint.cuba_lif_step(u, v, a, op.parameters())
        else:
            bias = fixedpoint.scale_bias(op.bias_mant, op.bias_exp).reshape(-1, *(1,) * (len(node.shape) - 1))
            state = fixedpoint.lif_step(u, v, a, bias=bias, vth=op.vth, du=op.du, dv=op.dv)
        spikes = state.spikes.astype(np.int64)
        self.state[node.name] = state.u, state.v, spikes
        return spikes
