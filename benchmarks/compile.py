"""How long resformer-compile takes at full size, and how much memory.

    python benchmarks/compile.py                   # Ti and L at 224x224
    python benchmarks/compile.py ti s m l --rounds 5

Each run is a process of its own, timed from its start to the finished build on disk; the variants take turns. Memory is
the largest resident set, including Python and PyTorch. Weights are the size of the checkpoint's file, in float32.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from networks import ROOT, checkpoint_files, print_machine, print_table

MEBI = 2**20
COMMAND = "from resformer.runtime.cli.compile_options import main; raise SystemExit(main())"


@dataclass(frozen=True)
class Run:
    """Time and memory of one process.

    Attributes:
        wall: Seconds.
        cpu: Seconds of processor time, of all threads.
        peak: The largest resident set, in bytes.
        build: Size of the build folder, in bytes.
    """

    wall: float
    cpu: float
    peak: int
    build: int


def compile_once(checkpoint: Path, target: str) -> Run:
    """Compile in a process of its own."""
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
        build = Path(folder) / "build"
        command = [sys.executable, "-c", COMMAND, str(checkpoint), "--target", target, "-o", str(build)]
        started = time.perf_counter()
        # not the subprocess module: only wait4 returns the time and memory of this one child
        with Path(os.devnull).open("wb") as nowhere:
            quiet = [(os.POSIX_SPAWN_DUP2, nowhere.fileno(), sys.stdout.fileno())]
            pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=quiet)
        _, status, usage = os.wait4(pid, 0)
        wall = time.perf_counter() - started
        if status:
            raise SystemExit(f"{' '.join(command)}: status {os.waitstatus_to_exitcode(status)}")
        size = sum(path.stat().st_size for path in build.iterdir())
        return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, size)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time and memory of resformer-compile.")
    parser.add_argument("variants", nargs="*", default=["ti", "l"], help="ti, s, m, l, cifar or dvsg (default: ti l)")
    parser.add_argument("--target", default="lava")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "benchmarks", help="where checkpoints are")
    args = parser.parse_args()

    checkpoints = {variant: checkpoint_files(variant, args.folder)[0] for variant in args.variants}
    runs: dict[str, list[Run]] = {variant: [] for variant in checkpoints}
    for _ in range(args.rounds):
        for variant, checkpoint in checkpoints.items():
            runs[variant].append(compile_once(checkpoint, args.target))

    print_machine()
    rows = []
    for variant, each in runs.items():
        weights = checkpoints[variant].stat().st_size
        peak = statistics.median(run.peak for run in each)
        rows.append(
            [
                variant,
                f"{weights / MEBI:.0f}",
                f"{statistics.median(run.wall for run in each):.1f}",
                f"{statistics.median(run.cpu for run in each):.1f}",
                f"{peak / MEBI:.0f}",
                f"{peak / weights:.1f}",
                f"{each[0].build / MEBI:.0f}",
            ]
        )
    print_table(["variant", "weights MiB", "s", "processor s", "peak MiB", "peak / weights", "build MiB"], rows)


if __name__ == "__main__":
    main()
