"""How fast sim is compared with SpikingJelly: the same checkpoint, images and machine, in turn.

    python benchmarks/sim_vs_spikingjelly.py                          # Ti and S at 224x224, T = 4, batches of 1 and 8
    python benchmarks/sim_vs_spikingjelly.py --variants ti --batches 8 --contestants eager
    python benchmarks/sim_vs_spikingjelly.py --device cuda --spikingjelly-2 PATH --seconds 300

SpikingJelly runs the float32 checkpoint in inference mode; sim runs the integers that the compiler makes of it. A
contestant's name says how SpikingJelly runs: without torch.compile (``eager``), through torch.compile (``compiled``),
through torch.compile with frozen weights (``frozen``) or in CUDA graphs (``graphs``), with its neurons for cupy
(``cupy``), and with 16-bit floats where torch's autocast chooses them (``autocast``: float16 on a GPU, bfloat16 on a
CPU). ``2-`` at the beginning means SpikingJelly 2, unpacked in the folder that --spikingjelly-2 names; it chooses its
neurons' kernels itself. ``sim-narrow`` is sim with its input integers in the fewest bytes that hold them. Each
contestant and batch is a process of its own, which waits while the others run.

On a GPU, a run has several batches. sim's clock runs from integers in the host's memory to logits in the host's memory.
SpikingJelly gets the same batch of images again and again, which are on the device when its clock starts, unless
--from-host is given. Memory is what torch reserved in a round. Energy is that of the whole device, by its own counter.

--seconds limits the whole run; what has been measured by then is printed. --prepare makes the files that take time on
the CPU (checkpoint, images, program), and --prepared uses them as they are.

The networks are random, so their classes mean nothing. Even so, the table shows how often both give an image the same
top-1 class. With --exact, the first image also runs as quantized.pt in SpikingJelly, in float64, whose spikes must
equal sim's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from contestants import SECOND, SIM, Contestant, Round, Task
from networks import ROOT, Network, checkpoint_files, network, print_machine, print_table

from resformer.compiler.backends.sim import SimBackend
from resformer.compiler.export.checkpoint import quantized_state
from resformer.compiler.files.program import write_program
from resformer.compiler.pipeline import compile_checkpoint
from resformer.models.checkpoint import build_model, load_checkpoint
from resformer.runtime.run.encode import decode
from resformer.runtime.verify.torch_network import TorchNetwork

WORKER = Path(__file__).with_name("contestants.py")
ON_CPU = ("eager", "compiled", "frozen")
ON_GPU = ("compiled-autocast", "cupy-autocast", "autocast", "compiled", "cupy", "eager")
ON_GPU_2 = ("2-compiled-autocast", "2-autocast", "2-compiled", "2-eager")
BATCHES = {"cpu": (1, 8), "cuda": (32, 128, 1, 8)}
ROUND_SECONDS = {"cpu": 0.0, "cuda": 0.5}
"""The least duration of a round of one contestant, in seconds; 0: a round is one run."""
PREPARING = 0.6
"""The share of --seconds that the contestants may take to prepare, unless --prepare-seconds is given."""
IMAGES_A_RUN, MOST_BATCHES = 512, 64
"""The number of images in a run on a GPU, and the most batches for them. A run has many batches, as data sets do."""
AT_ONCE = {"cpu": 1, "cuda": 8}
"""The number of contestants that prepare side by side."""


class Clock:
    """A clock that tells how much time is left.

    Args:
        seconds: The time until it ends; None: it never ends.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        """The time left, in seconds."""
        return max(self._end - time.monotonic(), 0.0)

    def until(self, seconds: float | None) -> Clock:
        """A clock that ends after ``seconds`` seconds, or with this clock if that ends earlier."""
        return Clock(min(self.left(), math.inf if seconds is None else seconds))


class Worker:
    """A contestant's process.

    Args:
        task: What the process runs.
        environment: The process's environment variables.
        log: The file to which the process's messages are appended; None: they are dropped.

    Attributes:
        failure: Why the process cannot go on; None if it can.
    """

    def __init__(self, task: Task, environment: Mapping[str, str], log: Path | None) -> None:
        self.failure: str | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        with (log or Path(os.devnull)).open("a", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(WORKER), json.dumps(asdict(task))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ask(self, command: Mapping[str, Any], clock: Clock) -> dict[str, Any] | None:
        """Send a command and return the answer.

        If no answer comes in time, or the answer is an error, the process is ended, ``failure`` is set, and None is
        returned.
        """
        assert self._process.stdin is not None
        started = time.monotonic()
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            left = clock.left()
            line = self._lines.get(timeout=None if math.isinf(left) else left)
        except queue.Empty:
            self.end(f"no answer after {time.monotonic() - started:.0f} s")
            return None
        except OSError:
            line = ""
        if not line:
            self.end(f"ended with code {self._process.wait()}")
            return None
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self.end(answer["error"])
            return None
        return answer

    def end(self, failure: str | None = None) -> None:
        """End the process; ``failure`` becomes the given reason, unless it has one already."""
        self.failure = self.failure or failure or "no time was left to run"
        self._process.kill()
        self._process.wait()


@dataclass(eq=False)
class Entry:
    """A contestant on one batch.

    Attributes:
        contestant: The contestant.
        batch: The number of images in the batch.
        worker: The contestant's process; None if it has not begun.
        classes: The top-1 class that the contestant gives each image.
        rounds: The measured rounds.
    """

    contestant: Contestant
    batch: int
    worker: Worker | None = None
    classes: Sequence[int] = ()
    rounds: tuple[Round, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether the contestant can run a round."""
        return self.worker is not None and self.worker.failure is None

    @property
    def failure(self) -> str:
        """Why the contestant was not measured."""
        return "no time was left to begin" if self.worker is None else str(self.worker.failure)


def environment_of(contestant: Contestant, second: Path | None) -> dict[str, str]:
    """The environment variables of a contestant's process, by which it finds its SpikingJelly."""
    made = dict(os.environ)
    if SECOND in contestant.parts:
        assert second is not None
        made["PYTHONPATH"] = os.pathsep.join(filter(None, (str(second.resolve()), made.get("PYTHONPATH"))))
    made.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")  # few, since several contestants compile side by side
    return made


def prepare(entry: Entry, clock: Clock) -> None:
    """Run a contestant's batch for the first time, and print whether it is ready."""
    assert entry.worker is not None
    began = time.monotonic()
    answer = entry.worker.ask({"do": "prepare"}, clock)
    if answer is not None:
        entry.classes = answer["classes"]
    outcome = "ready" if answer is not None else f"does not run: {entry.failure}"
    taken = f"{time.monotonic() - began:.0f} s"
    print(f"batch {entry.batch}, {entry.contestant.title}: {outcome} ({taken})", file=sys.stderr, flush=True)


def prepare_all(
    entries: Sequence[Entry],
    launch: Callable[[Entry], Worker],
    at_once: int,
    limit: float | None,
    clock: Clock,
    whole: Clock | None = None,
) -> None:
    """Prepare all contestants; sim comes last and alone, since its kernels choose their tiles by measured speed.

    Args:
        entries: The contestants, in the order in which they begin.
        launch: Starts a contestant's process.
        at_once: The number of contestants that may prepare side by side.
        limit: The seconds that each contestant other than sim may take; None: no limit.
        clock: The time for the contestants other than sim; when it ends, none of them begins or is waited for.
        whole: The time for sim; None: ``clock`` counts for sim too.
    """
    ours = [entry for entry in entries if SIM in entry.contestant.parts]

    def begin(entry: Entry, until: Clock = clock, seconds: float | None = limit) -> None:
        if until.left():
            entry.worker = launch(entry)
            prepare(entry, until.until(seconds))

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(begin, [entry for entry in entries if entry not in ours]))
    for entry in ours:
        begin(entry, clock if whole is None else whole, None)


def take_turns(entries: Sequence[Entry], rounds: int, seconds: float, clock: Clock) -> None:
    """Run contestants in turn, round by round, so that a disturbance of the machine affects all of them.

    Args:
        entries: The contestants; their processes end after the last round.
        rounds: The number of rounds that count.
        seconds: The least duration of a round of each contestant, in seconds. 0: a round is one run, and a first round
            that does not count warms up.
        clock: The time for all rounds; when it ends, no round begins.
    """
    warm = seconds > 0
    for index in range(rounds + (not warm)):
        for entry in entries:
            if not entry.ready or not clock.left():
                continue
            assert entry.worker is not None
            answer = entry.worker.ask({"do": "round", "seconds": seconds}, clock)
            if answer is not None and (index or warm):
                entry.rounds += (Round(**answer),)
    for entry in entries:
        if entry.worker is not None:
            entry.worker.end()


def table(name: str, entries: Sequence[Entry], *, on_gpu: bool) -> list[list[str]]:
    """A row for each contestant of one batch, sim's first."""
    medians = {each.contestant: _median(each.rounds) for each in entries if each.rounds}
    sim = next((median for each, median in medians.items() if each.name == SIM), None)
    classes = next((each.classes for each in entries if each.contestant.name == SIM), ())
    rows = []
    for each in entries:
        label = f"{name}, batch {each.batch}: {each.contestant.title}"
        if each.contestant not in medians:
            rows.append([f"{label}: {each.failure}", *[""] * (7 if on_gpu else 6)])
            continue
        mine = medians[each.contestant]
        same = sum(ours == theirs for ours, theirs in zip(classes, each.classes, strict=False))
        agreement = "-" if SIM in each.contestant.parts or not classes else f"{same}/{each.batch}"
        walls = [f"{mine.wall:.4f}" if on_gpu else f"{mine.wall:.3f}", f"{each.batch / mine.wall:.2f}"]
        walls.append(f"{mine.wall / sim.wall:.1f}x" if sim else "")
        if on_gpu:
            spread = [taken.wall for taken in each.rounds]
            rest = [
                f"{min(spread) / mine.wall - 1:+.0%} {max(spread) / mine.wall - 1:+.0%}",
                "" if mine.peak_bytes is None else f"{mine.peak_bytes / 2**20:.0f}",
                "not readable" if mine.joules is None else f"{mine.joules / each.batch:.3f}",
            ]
        else:
            rest = [f"{mine.cpu:.2f}", f"{mine.cpu / sim.cpu:.1f}x" if sim else ""]
        rows.append([label, *walls, *rest, agreement])
    return rows


def _median(rounds: Sequence[Round]) -> Round:
    joules = [each.joules for each in rounds if each.joules is not None]
    peaks = [each.peak_bytes for each in rounds if each.peak_bytes is not None]
    return Round(
        statistics.median(each.wall for each in rounds),
        statistics.median(each.cpu for each in rounds),
        statistics.median(joules) if joules else None,
        max(peaks) if peaks else None,
    )


def header(*, on_gpu: bool) -> list[str]:
    """The table's header."""
    rest = ["spread", "MiB", "J/image"] if on_gpu else ["CPU s", "sim is"]
    return ["", "s", "images/s", "sim is", *rest, "same top-1"]


def mismatches(net: Network) -> int:
    """The number of spikes that differ between sim and quantized.pt in SpikingJelly, float64, on the first image."""
    model = build_model(load_checkpoint(net.checkpoint))
    model.load_state_dict(quantized_state(compile_checkpoint(net.checkpoint).quantized))
    trace, counts = SimBackend().run(net.program, net.samples(1), record=True), []

    def count(name: str, _currents: torch.Tensor, spikes: torch.Tensor) -> None:
        ours = trace.spikes[name].dense()
        counts.append(int((spikes.numpy().reshape(ours.shape) != ours).sum()))

    TorchNetwork(model).run(decode(net.samples(1), net.program), count)
    assert len(counts) == len(trace.spikes)
    return sum(counts)


def batches_a_run(batch: int) -> int:
    """The number of batches in a run on a GPU."""
    return max(min(IMAGES_A_RUN // batch, MOST_BATCHES), 1)


def files_of(variant: str, folder: Path, *, anew: bool) -> tuple[Path, Path, Path]:
    """The files of a variant's checkpoint, images and program; the program is compiled if it is absent, or ``anew``."""
    path = folder / f"{variant}.safetensors"
    if anew or not path.exists():
        write_program(network(variant, folder).program, path)
    return (*checkpoint_files(variant, folder), path)


def measure(variant: str, args: argparse.Namespace, clock: Clock) -> list[list[str]]:
    """Measure one variant; print the rows of each batch as they come, and return all rows."""
    on_gpu = args.device != "cpu"
    checkpoint, images, program = files_of(variant, args.folder, anew=not args.prepared)
    entries = [
        Entry(Contestant(name), batch) for batch in args.batches for name in dict.fromkeys((SIM, *args.contestants))
    ]

    def launch(entry: Entry) -> Worker:
        task = Task(
            contestant=entry.contestant.name,
            checkpoint=str(checkpoint),
            program=str(program),
            images=str(images),
            batch=entry.batch,
            batches=batches_a_run(entry.batch) if on_gpu else 1,
            device=args.device,
            threads=args.threads,
            from_host=args.from_host,
        )
        return Worker(task, environment_of(entry.contestant, args.spikingjelly_2), args.log)

    rows: list[list[str]] = []
    try:
        prepare_all(
            entries,
            launch,
            args.at_once,
            args.contestant_seconds,
            clock.until(args.prepare_seconds),
            clock,
        )
        for batch in args.batches:
            mine = [entry for entry in entries if entry.batch == batch]
            take_turns(mine, args.rounds, args.round_seconds, clock)
            new = table(variant, mine, on_gpu=on_gpu)
            print_table(header(on_gpu=on_gpu), new)
            rows += new
    finally:
        for entry in entries:
            if entry.worker is not None:
                entry.worker.end()
    return rows


def arguments() -> argparse.Namespace:
    """The arguments of the command line; defaults that depend on the device are filled in."""
    parser = argparse.ArgumentParser(description="How fast sim is beside SpikingJelly.")
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda", help="(default: cpu)")
    parser.add_argument("--variants", nargs="+", default=["ti", "s"], metavar="NAME")
    parser.add_argument("--batches", nargs="+", type=int, metavar="N", help="in the order in which they are measured")
    parser.add_argument("--contestants", nargs="*", metavar="NAME", help="beside sim, such as eager or 2-autocast")
    parser.add_argument("--spikingjelly-2", type=Path, metavar="PATH", help="a folder that holds SpikingJelly 2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-seconds", type=float, metavar="S", help="of one contestant, at least; 0: one run")
    parser.add_argument("--seconds", type=float, metavar="S", help="after which the run ends with what it has")
    parser.add_argument("--prepare-seconds", type=float, metavar="S", help="for all contestants of a variant to begin")
    parser.add_argument("--contestant-seconds", type=float, metavar="S", help="for each contestant to begin")
    parser.add_argument("--at-once", type=int, metavar="N", help="how many contestants begin side by side")
    parser.add_argument("--from-host", action="store_true", help="SpikingJelly's images, too, come from the host")
    parser.add_argument("--log", type=Path, metavar="FILE", help="what the contestants' processes print is added to it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--exact", action="store_true", help="compare with quantized.pt in float64, too")
    parser.add_argument("--prepare", action="store_true", help="only make checkpoints, images and programs")
    parser.add_argument("--prepared", action="store_true", help="take programs that --prepare made")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "benchmarks", help="where checkpoints are")
    args = parser.parse_args()
    kind = "cpu" if args.device == "cpu" else "cuda"
    if args.contestants is None:
        second = ON_GPU_2 if args.spikingjelly_2 else ()
        args.contestants = ON_CPU if kind == "cpu" else [*ON_GPU[:1], *second[:1], *ON_GPU[1:], *second[1:]]
    try:
        contestants = [Contestant(name) for name in args.contestants]
    except ValueError as error:
        parser.error(str(error))
    if args.spikingjelly_2 is None and any(SECOND in each.parts for each in contestants):
        parser.error("contestants of SpikingJelly 2 need --spikingjelly-2 PATH")
    if args.spikingjelly_2 is not None and not (args.spikingjelly_2 / "spikingjelly").is_dir():
        parser.error(f"--spikingjelly-2 {args.spikingjelly_2}: holds no folder spikingjelly; unpack its wheel there")
    if args.seconds is not None and args.prepare_seconds is None:
        args.prepare_seconds = PREPARING * args.seconds / len(args.variants)
    for name, defaults in (("batches", BATCHES), ("round_seconds", ROUND_SECONDS), ("at_once", AT_ONCE)):
        if getattr(args, name) is None:
            setattr(args, name, defaults[kind])
    return args


def main() -> None:
    """Measure and print."""
    args = arguments()
    torch.set_num_threads(args.threads)
    if args.prepare:
        for variant in args.variants:
            files_of(variant, args.folder, anew=True)
        return
    clock = Clock(args.seconds)
    print_machine(args.device)
    rows = []
    for variant in args.variants:
        rows += measure(variant, args, clock)
        if args.exact:
            found = mismatches(network(variant, args.folder))
            print(f"{variant}: {found} spikes differ from quantized.pt in SpikingJelly, float64, on one image")
    print_table(header(on_gpu=args.device != "cpu"), rows)


if __name__ == "__main__":
    main()
