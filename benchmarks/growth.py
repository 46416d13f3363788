"""How sim's time and memory grow with the batch, with T, with the network and its images, and with threads.

    python benchmarks/growth.py --plot growth.svg        # half an hour to an hour, on a machine with nothing else to do
    python benchmarks/growth.py --quick                  # small images, a minute or two

Each point runs in a process of its own, which only reads the compiled program and runs it, so that the peak of memory
belongs to that point alone. Smaller points of a series are measured first and predict the time and memory of the next
one; a point that would exceed a budget is not run, and the table says so. Below the table, a sentence for each series
and number of threads says whether it grows linearly. A straight line is fitted to the time, and to the peak of memory
above what the process holds before it runs. If a point is far from the line, the sentence tells how the cost of a unit
changes.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import MAKE_CHECKPOINT, ROOT, print_machine, print_table

from resformer.compiler.backends.sim import SimBackend
from resformer.compiler.files.program import read_program, write_program
from resformer.compiler.ir.effort import products
from resformer.compiler.pipeline import CompileOptions, compile_checkpoint
from resformer.runtime.run.encode import encode
from resformer.runtime.run.memory import machine_memory

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Files of Linux: the first tells the memory that a process holds now and held at most, the second resets that peak."""
IMAGES = 8
LINEAR = 0.10
"""Growth is called linear if no point is further from the fitted line than this share of the line's value."""
FLAT = 0.10
"""A series whose values grow by at most this share is said not to grow."""
GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class Point:
    """What one process runs.

    Attributes:
        variant: The network.
        size: Edge of its images, in pixels.
        timesteps: T.
        batch: The number of images that are given together.
        threads: The number of sim's threads.
    """

    variant: str
    size: int
    timesteps: int
    batch: int
    threads: int

    @property
    def program_name(self) -> str:
        """The name of the program's file."""
        return f"{self.variant}-{self.size}-T{self.timesteps}.safetensors"


@dataclass(frozen=True)
class Measured:
    """Time and memory of a point, or why it was not run.

    Attributes:
        seconds: Time of one run, the median over the rounds.
        peak: The most memory that the process held, in bytes.
        above: How much more that is than the process held before the first run, in bytes.
        products: The number of products of a value and a weight, for all images.
        skipped: Why the point was not measured; None if it was.
    """

    seconds: float = math.nan
    peak: float = math.nan
    above: float = math.nan
    products: float = math.nan
    skipped: str | None = None


@dataclass(frozen=True)
class Series:
    """Points that differ in one quantity, such as the batch.

    Attributes:
        name: The quantity, and what stays the same.
        unit: The unit of the quantity.
        amount: Returns a point's amount of it.
        label: Returns a point's name in a row.
        points: The points, from the smallest on.
    """

    name: str
    unit: str
    amount: Callable[[Point, Measured], float]
    label: Callable[[Point], str]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Line:
    """A line a + b x, fitted by relative errors, not by absolute ones.

    Attributes:
        fixed: a.
        each: b.
        off: The largest distance of a value from the line, as a share of the line's value there.
    """

    fixed: float
    each: float
    off: float


def fit(amounts: Sequence[float], values: Sequence[float]) -> Line:
    """The least-squares line through values, where each error is divided by its value."""
    x, y = np.asarray(amounts, dtype=float), np.asarray(values, dtype=float)
    (fixed, each), *_ = np.linalg.lstsq(np.stack([1 / y, x / y], axis=1), np.ones(len(y)), rcond=None)
    line = fixed + each * x
    return Line(float(fixed), float(each), float(np.abs(y / line - 1).max()))


def sentence(
    what: str, unit: str, amounts: Sequence[float], values: Sequence[float], say: Callable[[float], str]
) -> str:
    """A sentence that says whether something grows linearly, or else how it grows.

    Args:
        what: The name of what was measured.
        unit: The unit of the amounts.
        amounts: The amounts, in rising order.
        values: The value that was measured at each amount, all above zero.
        say: Writes a value with its unit.
    """
    a = "an" if unit[0] in "aeiou" else "a"
    if len(amounts) < 3:
        factor, more = values[-1] / values[0], amounts[-1] / amounts[0]
        return f"{what}: {factor:.2f} times as much for {more:.2f} times the {unit}s; two points make no fit"
    if max(values) / min(values) - 1 <= FLAT:
        return f"{what}: does not grow, {say(min(values))} to {say(max(values))}"
    line = fit(amounts, values)
    if line.off <= LINEAR and line.each > 0:
        fixed = say(line.fixed) if line.fixed >= 0 else f"-{say(-line.fixed)}"
        return f"{what}: linear, {fixed} and {say(line.each)} {a} {unit} (no point further off than {line.off:.0%})"
    costs = [value / amount for amount, value in zip(amounts, values, strict=True)]
    least = costs.index(min(costs))
    parts = []
    if least and costs[0] / costs[least] > 1 + LINEAR:
        parts.append(
            f"{a} {unit} costs {say(costs[0])} at {amounts[0]:.3g} and {say(costs[least])} at {amounts[least]:.3g}, "
            "as a fixed cost is spread over more"
        )
    if costs[-1] / costs[least] > 1 + LINEAR:
        worst = max(range(least + 1, len(costs)), key=lambda index: costs[index] / costs[index - 1])
        parts.append(
            f"from {amounts[least]:.3g} to {amounts[-1]:.3g} {a} {unit} grows dearer, {say(costs[least])} to "
            f"{say(costs[-1])}, most from {amounts[worst - 1]:.3g} to {amounts[worst]:.3g}"
        )
    if not parts:
        parts.append(f"{a} {unit} costs {say(min(costs))} to {say(max(costs))} without a trend")
    return f"{what}: not linear (a point is {line.off:.0%} off the best line): {'; '.join(parts)}"


def seconds(value: float) -> str:
    """A time with its unit."""
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms" if value >= 1e-3 else f"{1e6 * value:.3g} us"


def memory(value: float) -> str:
    """An amount of memory with its unit."""
    return f"{value / GIB:.3g} GiB" if value >= GIB else f"{value / MIB:.3g} MiB" if value >= MIB else f"{value:.3g} B"


def all_series(quick: bool, threads: int) -> tuple[Series, ...]:
    """All series that are measured with a number of threads."""
    base = Point("cifar", 32, 4, 4, threads) if quick else Point("ti", 224, 4, 8, threads)
    large = replace(base, size=64) if quick else Point("l", 288, 4, 8, threads)
    batches = (1, 4, 16) if quick else (1, 2, 4, 8, 16, 32, 64, 128, 256)
    large_batches = () if quick else (1, 4, 16, 64, 256)
    steps = (1, 2, 4) if quick else (1, 2, 4, 8, 16)
    nets = (
        [("cifar", 32), ("cifar", 64)]
        if quick
        else [(name, size) for size in (224, 288) for name in ("ti", "s", "m", "l")]
    )
    made = [
        _of_batches(base, batches),
        _of_batches(large, large_batches),
        Series(
            f"T ({base.variant}, {base.size}x{base.size}, batch {base.batch})",
            "step",
            lambda point, _: point.timesteps,
            lambda point: f"T {point.timesteps}",
            tuple(replace(base, timesteps=each) for each in steps),
        ),
        Series(
            f"network and image (T = {base.timesteps}, batch {base.batch})",
            "GMAC",
            lambda _, measured: measured.products / 1e9,
            lambda point: f"{point.variant}, {point.size}x{point.size}",
            tuple(replace(base, variant=name, size=size) for name, size in nets),
        ),
    ]
    return tuple(each for each in made if each.points)


def _of_batches(base: Point, batches: Sequence[int]) -> Series:
    return Series(
        f"batch ({base.variant}, {base.size}x{base.size}, T = {base.timesteps})",
        "image",
        lambda point, _: point.batch,
        lambda point: f"batch {point.batch}",
        tuple(replace(base, batch=each) for each in batches),
    )


def prepare(point: Point, folder: Path) -> int:
    """Write a point's program and images if they are absent; return the number of products of one image.

    Both are made in processes of their own, since this process would hardly give the memory back.
    """
    checkpoint = folder / f"{point.variant}-{point.size}.pt"
    if not checkpoint.exists():
        print(f"making {checkpoint}", file=sys.stderr)
        size = ["--input-size", point.size, "--images", IMAGES, "--threads", 1]
        command = [sys.executable, MAKE_CHECKPOINT, point.variant, *size, "-o", checkpoint]
        subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL)
    counted = folder / f"{point.program_name}.json"
    if not counted.exists():
        print(f"compiling {point.program_name}", file=sys.stderr)
        _child("--compile", point, folder, timeout=None)
    return int(json.loads(counted.read_text(encoding="utf-8"))["products"])


def compile_point(point: Point, folder: Path) -> None:
    """Write a point's program, and the number of products of one image."""
    options = CompileOptions(image_size=point.size, timesteps=point.timesteps)
    program = compile_checkpoint(folder / f"{point.variant}-{point.size}.pt", options).program
    write_program(program, folder / point.program_name)
    counted = {"products": products(program)}
    (folder / f"{point.program_name}.json").write_text(json.dumps(counted), encoding="utf-8")


def run_point(point: Point, folder: Path, rounds: int) -> Measured:
    """Run a point in this process."""
    torch.set_num_threads(point.threads)
    program = read_program(folder / point.program_name)
    images = np.load(folder / f"{point.variant}-{point.size}_images.npy")
    given = np.take(encode(images.astype(np.float64), program).values, np.arange(point.batch) % len(images), axis=0)
    backend = SimBackend()
    del images
    gc.collect()
    if CLEAR.exists():
        CLEAR.write_text("5", encoding="ascii")
    before, taken = _held("VmRSS"), []
    for _ in range(rounds + 1):  # the first run warms up: it tries kernels and allocates memory
        start = time.perf_counter()
        backend.run(program, given)
        taken.append(time.perf_counter() - start)
    peak = _held("VmHWM")
    return Measured(float(np.median(taken[1:])), peak, max(peak - before, 1), float(products(program)) * point.batch)


def _held(what: str) -> float:
    """A line of the Linux kernel's status of this process, such as ``VmRSS``, in bytes."""
    (line,) = [each for each in STATUS.read_text(encoding="ascii").splitlines() if each.startswith(f"{what}:")]
    return float(line.split()[1]) * 1024


def _child(task: str, point: Point, folder: Path, *more: str, timeout: float | None) -> str:
    command = [sys.executable, __file__, task, json.dumps(asdict(point)), "--folder", str(folder), *more]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout).stdout


@dataclass(frozen=True)
class Budget:
    """The limits for each point.

    Attributes:
        seconds: The longest time of one run.
        bytes: The most memory of one process.
        rounds: The number of runs that are timed.
    """

    seconds: float
    bytes: float
    rounds: int


def measure(point: Point, folder: Path, budget: Budget, before: tuple[Point, Measured] | None) -> Measured:
    """Run a point in a process of its own, unless the point measured before it predicts that it exceeds the budget."""
    work = prepare(point, folder) * point.batch
    if before is not None and (reason := too_much(point, work, budget, before)) is not None:
        return Measured(products=work, skipped=reason)
    limit = 10 + 2 * budget.seconds * (budget.rounds + 1)
    try:
        said = _child("--point", point, folder, "--rounds", str(budget.rounds), timeout=limit)
    except subprocess.TimeoutExpired:
        return Measured(products=work, skipped=f"stopped after {limit:.0f} s, budget {budget.seconds:.0f} s a run")
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        return Measured(products=work, skipped=f"failed: {last}")
    return Measured(**json.loads(said.splitlines()[-1]))


def too_much(point: Point, work: float, budget: Budget, before: tuple[Point, Measured]) -> str | None:
    """Why a point is not run; None if it is run.

    A smaller point predicts its cost: time grows with the number of products, memory with the number of values.
    """
    smaller, measured = before
    taken = measured.seconds * work / measured.products
    if taken > budget.seconds:
        return f"not run: would take {seconds(taken)} a run, budget {seconds(budget.seconds)}"
    if point.variant == smaller.variant:
        pixels = [each.batch * each.timesteps * each.size**2 for each in (smaller, point)]
        more = pixels[1] / pixels[0]
    else:
        more = work / measured.products
    held = measured.peak - measured.above + measured.above * max(more, 1.0)
    if held > budget.bytes:
        return f"not run: would hold {memory(held)}, budget {memory(budget.bytes)}"
    return None


def measure_all(series: Sequence[Series], folder: Path, budget: Budget) -> dict[Point, Measured]:
    """Measure all points of all series, each point once."""
    found: dict[Point, Measured] = {}
    for each in series:
        before = None
        for point in each.points:
            if point not in found:
                found[point] = measure(point, folder, budget, before)
                print(f"{each.name}, {each.label(point)}: {_progress(found[point])}", file=sys.stderr)
            if found[point].skipped is None:
                before = (point, found[point])
    return found


def _progress(measured: Measured) -> str:
    return measured.skipped or f"{seconds(measured.seconds)}, {memory(measured.peak)}"


def rows(series: Series, found: Mapping[Point, Measured]) -> list[list[str]]:
    """The table's rows of a series."""
    table = []
    for point in series.points:
        measured = found[point]
        name = f"{series.name}: {series.label(point)}, {_threads(series)}"
        if measured.skipped is not None:
            table.append([name, measured.skipped, *["-"] * 4])
            continue
        table.append(
            [
                name,
                f"{measured.seconds:.4f}",
                f"{point.batch / measured.seconds:.2f}",
                f"{measured.products / measured.seconds / 1e9:.1f}",
                f"{measured.peak / MIB:.0f}",
                f"{measured.above / MIB:.0f}",
            ]
        )
    return table


def conclusions(series: Series, found: Mapping[Point, Measured]) -> list[str]:
    """What a series shows: one sentence about time and one about memory."""
    ran = sorted(
        ((series.amount(point, found[point]), found[point]) for point in series.points if found[point].skipped is None),
        key=lambda pair: pair[0],
    )
    threads = _threads(series)
    if len(ran) < 2:
        return [f"{series.name}, {threads}: {len(ran)} of {len(series.points)} points ran, too few to say how it grows"]
    amounts = [amount for amount, _ in ran]
    told = (("time", [each.seconds for _, each in ran], seconds), ("memory", [each.above for _, each in ran], memory))
    return [
        f"{series.name}, {threads}: {sentence(what, series.unit, amounts, values, say)}." for what, values, say in told
    ]


def _threads(series: Series) -> str:
    count = series.points[0].threads
    return f"{count} thread{'s' * (count > 1)}"


def scaling(one: Mapping[Point, Measured], many: Mapping[Point, Measured], threads: int) -> str:
    """A sentence about how much faster several threads are than one."""
    gains = {
        point: one[replace(point, threads=1)].seconds / measured.seconds
        for point, measured in many.items()
        if point.threads == threads and measured.skipped is None and one[replace(point, threads=1)].skipped is None
    }
    if not gains:
        return f"threads: no point ran with both 1 and {threads}."
    worst, best = min(gains, key=gains.__getitem__), max(gains, key=gains.__getitem__)
    verdict = "linear" if gains[worst] >= threads * (1 - LINEAR) else "not linear"

    def title(point: Point) -> str:
        return f"{point.variant}, {point.size}x{point.size}, T = {point.timesteps}, batch {point.batch}"

    return (
        f"threads: {verdict}, {threads} are {gains[worst]:.2f} ({title(worst)}) to {gains[best]:.2f} times "
        f"({title(best)}) as fast as 1."
    )


def plot(groups: Sequence[Sequence[Series]], found: Mapping[Point, Measured], path: Path) -> None:
    """Draw time and memory over each series' amounts: a column for each series, a line for each number of threads."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = list(zip(*groups, strict=True))
    figure = Figure(figsize=(4.2 * len(kinds), 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(kinds), squeeze=False)
    what: tuple[tuple[str, Callable[[Measured], float]], ...] = (
        ("s a run", lambda each: each.seconds),
        ("MiB above the idle process", lambda each: each.above / MIB),
    )
    for column, kind in enumerate(kinds):
        for row, (label, value) in enumerate(what):
            for series in kind:
                ran = [point for point in series.points if found[point].skipped is None]
                pairs = sorted((series.amount(point, found[point]), value(found[point])) for point in ran)
                if not pairs:
                    continue
                style = "o-" if len(kind) == 1 or series is kind[0] else "s--"
                axes[row][column].loglog(*zip(*pairs, strict=True), style, label=_threads(series))
            axes[row][column].set_ylabel(label)
            axes[row][column].set_xlabel(f"{kind[0].unit}s")
            axes[row][column].grid(alpha=0.3)
        axes[0][column].set_title(kind[0].name, fontsize="small")
    axes[0][0].legend(fontsize="small")
    figure.savefig(path, format=path.suffix[1:].lower(), dpi=120)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="How sim's time and memory grow.")
    parser.add_argument("--quick", action="store_true", help="small images and few points")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N")
    parser.add_argument("--rounds", type=int, help="runs that are timed at each point (default: 3, quick: 1)")
    parser.add_argument("--seconds", type=float, default=60.0, help="longest run (default: %(default)s)")
    parser.add_argument("--gib", type=float, help="most memory of a process (default: 60 percent of the machine's)")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="also draw it, .svg, .png or .pdf")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "growth", help="where programs are kept")
    for task in ("--compile", "--point"):
        parser.add_argument(task, type=lambda text: Point(**json.loads(text)), help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args: Any = _parser().parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.compile is not None:
        compile_point(args.compile, args.folder)
        return
    if args.point is not None:
        print(json.dumps(asdict(run_point(args.point, args.folder, args.rounds))))
        return
    share = 0.6 * (machine_memory() or 8 * GIB)
    rounds = args.rounds or (1 if args.quick else 3)
    budget = Budget(args.seconds, share if args.gib is None else args.gib * GIB, rounds)
    groups = [all_series(args.quick, threads) for threads in args.threads]
    found: dict[Point, Measured] = {}
    for group in groups:
        found |= measure_all(group, args.folder, budget)

    print_machine()
    table = [row for kind in zip(*groups, strict=True) for series in kind for row in rows(series, found)]
    print_table(["", "s a run", "images/s", "GMAC/s", "peak, MiB", "above idle, MiB"], table)
    for kind in zip(*groups, strict=True):
        for series in kind:
            for line in conclusions(series, found):
                print(f"- {line}")
    for threads in args.threads:
        if threads > 1 and 1 in args.threads:
            print(f"- {scaling(found, found, threads)}")
    if args.plot is not None:
        plot(groups, found, args.plot)


if __name__ == "__main__":
    main()
