"""Fuzzing: no hostile input may cause a traceback, a hang, too much memory, or unequal results of sim and reference.

    python tests/hostile/fuzz.py --inputs 100000 --seed 1        # make fuzz N=100000 SEED=1
    python tests/hostile/fuzz.py --seed 1 --only 4711            # one input again, with its traceback
    python tests/hostile/fuzz.py --inputs 500 --kind NIR --kind netx    # these kinds alone; with --only, name them too

Each input is made from its number and the seed alone, and runs in a process of its own, with limits of time, memory
and disk. A table says what became of them; each distinct failure is listed with an input that shows it.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # threads do not survive a fork

import argparse
import contextlib
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from support.builds import write_tiny
from support.fuzz.forks import Limits, Outcome, folder, run_apart
from support.fuzz.kinds import KINDS, Seeds, make_seeds
from support.networks import make_model

TELL_SECONDS = 10
"""Seconds between two lines of progress."""


@dataclass
class Tally:
    """What became of the inputs of a kind.

    Attributes:
        inputs: How many ran.
        refused: How many made a command end with status 1 or 2.
        ran: How many ran to the end of all commands.
        seconds: The longest time of one input.
        memory: The most memory of one input, in bytes.
        failures: How often each failure occurred.
    """

    inputs: int = 0
    refused: int = 0
    ran: int = 0
    seconds: float = 0.0
    memory: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Count one more input."""
        self.inputs += 1
        self.seconds, self.memory = max(self.seconds, outcome.seconds), max(self.memory, outcome.memory)
        if outcome.failure:
            self.failures[outcome.failure] += 1
        elif any(outcome.statuses):
            self.refused += 1
        elif outcome.statuses:
            self.ran += 1


def fuzz(
    seed: int, numbers: Iterable[int], seeds: Seeds, limits: Limits, kinds: Sequence[str] = tuple(KINDS)
) -> Iterator[tuple[int, str, Outcome]]:
    """Run inputs of some kinds; yields number, kind and outcome of each. The input of a number depends on ``kinds``."""
    names = list(kinds)
    weights = np.array([KINDS[name][0] for name in names])
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        with folder() as inside:
            outcome = run_apart(lambda name=name, rng=rng, inside=inside: KINDS[name][1](seeds, rng, inside), limits)
        yield number, name, outcome


def seeds_in(place: Path) -> Seeds:
    """Make the seeds, which inputs damage, in a folder."""
    torch.set_num_threads(1)
    seeds = make_seeds(write_tiny(make_model(in_channels=3), place), place)
    gc.freeze()  # else each process collects garbage among all imported objects, and the system copies their memory
    return seeds


def main() -> int:
    """Run as the command line says; returns the exit status."""
    try:
        return _run()
    finally:
        gc.unfreeze()  # Triton complains of objects that are still frozen when Python ends


def _run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first; those before are left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", type=int, help="run one input, by its number")
    parser.add_argument(
        "--kind", action="append", choices=KINDS, metavar="NAME", help="only this kind; more than once: these"
    )
    parser.add_argument(
        "--seconds", type=float, default=Limits.seconds, help="an input may take (default: %(default)s)"
    )
    parser.add_argument("--share", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    limits, kinds = Limits(seconds=arguments.seconds), tuple(arguments.kind or KINDS)
    if arguments.share or arguments.only is not None:
        first, step = arguments.share or (arguments.only, arguments.inputs)
        numbers = [first] if arguments.only is not None else range(arguments.first + first, arguments.inputs, step)
        with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as place:
            for number, name, outcome in fuzz(arguments.seed, numbers, seeds_in(Path(place)), limits, kinds):
                print(json.dumps([number, name, vars(outcome)]), flush=True)
                if arguments.only is not None:
                    print(outcome.detail)
        return 0
    return _alone(arguments) if arguments.jobs == 1 else _share(arguments)


def _alone(arguments: argparse.Namespace) -> int:
    """Run all inputs from this process, and print the table."""
    limits, kinds = Limits(seconds=arguments.seconds), tuple(arguments.kind or KINDS)
    numbers = range(arguments.first, arguments.inputs)
    started = told = time.monotonic()
    results = []
    with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as place:
        for each in fuzz(arguments.seed, numbers, seeds_in(Path(place)), limits, kinds):
            results.append(each)
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                _tell(len(results), len(numbers), started)
    return show(results, len(numbers), time.monotonic() - started)


def _tell(done: int, wanted: int, started: float) -> None:
    print(f"{done:,} of {wanted:,}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _share(arguments: argparse.Namespace) -> int:
    """Share the inputs among processes, and print the table."""
    command = [sys.executable, __file__, *sys.argv[1:], "--inputs", str(arguments.inputs), "--share"]
    wanted = arguments.inputs - arguments.first
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-out-") as place:
        shares = []
        for index in range(arguments.jobs):
            with (Path(place) / str(index)).open("w") as out:
                shares.append(subprocess.Popen([*command, str(index), str(arguments.jobs)], stdout=out))
        try:
            while running := [share for share in shares if share.poll() is None]:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running[0].wait(TELL_SECONDS)
                    continue
                done = sum(len(path.read_bytes().splitlines()) for path in Path(place).iterdir())
                _tell(done, wanted, started)
        finally:
            for share in shares:
                share.kill()
        lines = [line for path in sorted(Path(place).iterdir()) for line in path.read_text().splitlines()]
    results = [(number, name, Outcome(**outcome)) for number, name, outcome in map(json.loads, lines)]
    return show(results, wanted, time.monotonic() - started)


def show(results: Sequence[tuple[int, str, Outcome]], wanted: int, seconds: float) -> int:
    """Print the table, and each distinct failure; returns 0 if there is no failure and every input ran, else 1."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    examples: dict[tuple[str, str], int] = {}
    for number, name, outcome in sorted(results, key=lambda each: each[0]):
        tallies[name].add(outcome)
        tallies["all"].add(outcome)
        if outcome.failure:
            examples.setdefault((name, outcome.failure), number)
    print(f"{'kind':22}{'inputs':>9}{'refused':>9}{'ran':>9}{'failed':>9}{'distinct':>9}{'longest s':>11}{'MiB':>7}")
    for name in (*(name for name in KINDS if name in tallies), "all"):
        each = tallies[name]
        print(
            f"{name:22}{each.inputs:9,}{each.refused:9,}{each.ran:9,}{each.failures.total():9,}{len(each.failures):9,}"
            f"{each.seconds:11.1f}{each.memory >> 20:7,}"
        )
    print(f"{len(results):,} inputs in {seconds:,.0f} s")
    for (name, failure), number in examples.items():
        print(f"{name}: {failure} ({tallies[name].failures[failure]} times; input {number})")
    if len(results) < wanted:
        print(f"{wanted - len(results):,} inputs did not run: their process died")
    return int(bool(examples) or len(results) < wanted)


if __name__ == "__main__":
    sys.exit(main())
