"""How close sim comes to the processor's int8 roofline, layer by layer.

    python benchmarks/roofline.py                  # Ti at 224x224, T = 4
    python benchmarks/roofline.py --variant s

One thread runs one image again and again. For each step, the shortest processor time counts, since other programs
disturb it least. The roofline is the best rate that torch reaches in the same run on large matrices: of int8, or of
float32 if torch only has plain loops for int8 on this processor. Multiply-accumulates (MACs) are counted as those of
dense matrix products in 8 bits; DSSA's products count once for each 8-bit digit of their y. The share is the time that
these MACs would take at the roofline, divided by the time that the step took. A step that adds weights only where there
are spikes leaves out most of the MACs, and its share can exceed 100 %.
"""

import argparse
import functools
import math
import time
from pathlib import Path

import torch
from networks import ROOT, network, print_machine, print_table

from resformer.compiler.backends.sim.cpu_kernels import CpuKernels, can_attend, int8_matrices_pay
from resformer.compiler.backends.sim.engine import Engine
from resformer.compiler.backends.sim.frame import Frame, Work
from resformer.compiler.backends.sim.plan import AttentionStep, NeuronStep, OpStep, Plan, Step, build_plan
from resformer.compiler.backends.sim.recorder import Recorder
from resformer.compiler.ir.ops import Conv2d, SpikeMatMul

PEAK_SHAPES = ((4096, 1024, 1024), (2048, 2048, 512), (784, 768, 768))
PEAK_ROUNDS = 10
DIGITS = 2
"""The number of digits of y to the base 256; its 16 bits need two."""


def peak_rate() -> tuple[float, str]:
    """The most multiply-accumulates a second that one thread reaches in torch, and the type of the matrices."""
    multiply, dtype = (torch._int_mm, torch.int8) if int8_matrices_pay() else (torch.matmul, torch.float32)
    best = 0.0
    for rows, depth, columns in PEAK_SHAPES:
        left = torch.randint(0, 2, (rows, depth)).to(dtype)
        right = torch.randint(-127, 128, (depth, columns)).to(dtype)
        for _ in range(PEAK_ROUNDS):
            start = time.thread_time()
            multiply(left, right)
            best = max(best, rows * depth * columns / (time.thread_time() - start))
    return best, str(dtype).removeprefix("torch.")


def macs(plan: Plan, step: Step) -> int:
    """The number of 8-bit multiply-accumulates of one step, over all its blocks."""
    match step:
        case OpStep(op=Conv2d(weight=weight), name=name):
            value = plan.values[name]
            return (1 if value.static else plan.timesteps) * plan.samples * value.positions * weight.size
        case AttentionStep(inputs=(y1, x, _)):
            products = 2 * plan.values[y1].positions * plan.values[x].positions * plan.values[x].channels
            return plan.timesteps * plan.samples * DIGITS * products
        case OpStep(op=SpikeMatMul(), inputs=(y, x)):
            raise AssertionError(f"{y}, {x}: the product is not fused")
    return 0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How near sim comes to the int8 roofline.")
    parser.add_argument("--variant", default="ti")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "benchmarks", help="where checkpoints are")
    args = parser.parse_args()
    torch.set_num_threads(1)

    net = network(args.variant, args.folder)
    program, samples = net.program, net.samples(1)
    plan = build_plan(program, samples=1, static_input=True, keep_graded=False, workers=1, can_attend=can_attend)
    engine = Engine(plan, CpuKernels(plan))
    spent: dict[str, float] = {}

    def timed(work: Work, name: str, frame: Frame) -> None:
        start = time.thread_time()
        work(frame)
        spent[name] = spent.get(name, 0.0) + time.thread_time() - start

    for segment, blocks in engine.segments:
        for _, works in blocks:
            works[:] = [
                functools.partial(timed, work, step.writes[-1]) for work, step in zip(works, segment.steps, strict=True)
            ]
    least: dict[str, float] = {}
    total = math.inf
    for _ in range(args.rounds):
        spent.clear()
        start = time.thread_time()
        engine.run(samples, Recorder(program, 1, values=False), 0)
        total = min(total, time.thread_time() - start)
        least = {name: min(least.get(name, math.inf), taken) for name, taken in spent.items()}
    peak, dtype = peak_rate()

    print_machine()
    steps = [step for segment in plan.segments for step in segment.steps]
    rows = [_row(step.writes[-1], macs(plan, step), least[step.writes[-1]], peak) for step in steps]
    print_table(["step", "M MACs", "ms", "share"], rows)
    kinds = {"synapses and pools": OpStep, "attention": AttentionStep, "sums, relays and neurons": NeuronStep}
    summary = []
    for label, kind in kinds.items():
        mine = [step for step in steps if isinstance(step, kind)]
        summary.append(
            _row(label, sum(macs(plan, step) for step in mine), sum(least[step.writes[-1]] for step in mine), peak)
        )
    work = sum(macs(plan, step) for step in steps)
    summary.append(_row("between steps", 0, total - sum(least.values()), peak))
    summary.append(_row("whole image", work, total, peak))
    print_table([args.variant, "M MACs", "ms", "share"], summary)
    print(f"roofline: {2 * peak / 1e9:.0f} GOP/s a thread in {dtype}; {DIGITS} digits for y")


def _row(label: str, count: int, seconds: float, peak: float) -> list[str]:
    share = f"{count / peak / seconds:.0%}" if count else ""
    return [label, f"{count / 1e6:.0f}" if count else "", f"{1e3 * seconds:.2f}", share]


if __name__ == "__main__":
    main()
