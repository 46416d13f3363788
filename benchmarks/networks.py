"""Full-size networks for the benchmarks, which are made if they are absent, and functions for timing and printing."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.ir.program import Program
from resformer.compiler.pipeline import compile_checkpoint
from resformer.models.checkpoint import build_model, load_checkpoint
from resformer.models.spikingresformer import SpikingResformer
from resformer.runtime.run.encode import encode

ROOT = Path(__file__).resolve().parents[1]
MAKE_CHECKPOINT = ROOT / "examples" / "imagenet" / "make_checkpoint.py"
IMAGES = 8


@dataclass(frozen=True)
class Network:
    """One variant, as files and in memory.

    Attributes:
        name: The variant's name.
        checkpoint: The file of its tensors.
        images: (8 or more, 3, 224, 224), float32, normalised.
        program: The compiled network.
    """

    name: str
    checkpoint: Path
    images: npt.NDArray[np.float32]
    program: Program

    def model(self) -> SpikingResformer:
        """The float32 network in SpikingJelly."""
        return build_model(load_checkpoint(self.checkpoint), dtype=torch.float32)

    def samples(self, count: int) -> npt.NDArray[np.int32]:
        """The first ``count`` images, encoded as the program takes them."""
        return encode(self.real(count).astype(np.float64), self.program).values

    def real(self, count: int) -> npt.NDArray[np.float32]:
        """The first ``count`` images; after the last image follows the first again."""
        return np.take(self.images, np.arange(count) % len(self.images), axis=0)


def network(variant: str, folder: Path) -> Network:
    """A variant's network; its checkpoint is made if the folder lacks it."""
    checkpoint, images = checkpoint_files(variant, folder)
    return Network(variant, checkpoint, np.load(images), compile_checkpoint(checkpoint).program)


def checkpoint_files(variant: str, folder: Path, count: int = IMAGES) -> tuple[Path, Path]:
    """The files of a variant's checkpoint and of at least ``count`` images, made if the folder lacks them."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, images = folder / f"{variant}.pt", folder / f"{variant}_images.npy"
    if not checkpoint.exists() or not images.exists() or len(np.load(images, mmap_mode="r")) < count:
        print(f"making {checkpoint}", file=sys.stderr)
        command = [sys.executable, str(MAKE_CHECKPOINT), variant, "-o", str(checkpoint), "--images", str(count)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return checkpoint, images


@dataclass(frozen=True)
class Timing:
    """The time of one contestant, the median over its rounds.

    Attributes:
        wall: Seconds.
        cpu: Seconds of processor time, of all threads; other programs on the machine disturb it least.
    """

    wall: float
    cpu: float


def interleaved(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Time contestants in turn, round by round, so that a disturbance of the machine affects all of them.

    The first round warms up and does not count.
    """
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for index in range(rounds + 1):
        for name, run in contestants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if index:
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: Timing(statistics.median(each[0] for each in pairs), statistics.median(each[1] for each in pairs))
        for name, pairs in taken.items()
    }


def print_machine(device: str = "cpu") -> None:
    """Print the machine on which a table's numbers were measured, with the GPU if the device is one."""
    processor = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    gpu = "" if device == "cpu" else f"{torch.cuda.get_device_name(torch.device(device))}, "
    threads = torch.get_num_threads()
    print(f"{gpu}{processor}, {threads} threads, torch {torch.__version__}, commit {commit or 'unknown'}\n", flush=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, ["-" * width for width in widths], *rows):
        numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print(f"| {row[0].ljust(widths[0])} | {' | '.join(numbers)} |", flush=True)
    print()
