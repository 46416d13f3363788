"""Whether sim on a GPU is the reference, bit for bit, on full-size networks.

    python benchmarks/gpu_exact.py --prepare --folder build/exact --variants ti s --images 4      # on any machine: slow
    python benchmarks/gpu_exact.py --folder build/exact --device cuda --batches 1 8 32 128        # on the GPU's: quick

The reference takes seconds for each image, and time on a GPU is rare. So the reference runs beforehand and writes
digests of all spikes and graded values of each population at each step of each image, digests of the logits, and the
counts of saturation and of ties. A batch repeats these images in a random order, so that each of its samples has a
known answer. Each batch runs twice: once recording everything, and once recording nothing, which uses other, faster
kernels; of the second run, logits and counts are compared. Batches of more than 32 only run without recording.

Digests say that values differ, not how many: a mismatch is counted for a node, a step and a sample. The program is kept
with its digests, since another machine may round a checkpoint's statistics differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from networks import ROOT, network, print_machine, print_table

from resformer.compiler.backends.sim import SimBackend
from resformer.compiler.files.program import read_program, write_program
from resformer.compiler.ir import reference
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.trace import SpikeTrain, Trace

DIGEST_BYTES = 8
LOGITS = "(logits)"
COUNTS = ("saturated", "ties")
FAILED = "failed"
MOST_RECORDED = 32
"""The most samples that are recorded at once: for 128, all spikes and graded values of a Ti take 15 GB."""
SHOWN = 3
"""The most differing nodes that a row names."""


@dataclass(frozen=True)
class Answer:
    """The reference's results for one image.

    Attributes:
        values: By node, the digests of its values, one for each step; those of the logits under LOGITS.
        saturated: How often a value was clipped, by node.
        ties: How often a potential met its threshold and did not fire, by population.
    """

    values: Mapping[str, Sequence[str]]
    saturated: Mapping[str, int]
    ties: Mapping[str, int]


@dataclass
class Verdict:
    """The comparison of one run with the answers.

    Attributes:
        compared: The number of digests and counts that were compared.
        wrong: Names of nodes, one for each digest or count that differs.
    """

    compared: int = 0
    wrong: list[str] = field(default_factory=list)

    def note(self, name: str, found: object, expected: object) -> None:
        """Compare one digest or count."""
        self.compared += 1
        if found != expected:
            self.wrong.append(name)


def digests(trace: Trace) -> dict[str, list[list[str]]]:
    """By node, for each sample, the digests of its values at each step; those of the logits under LOGITS."""
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda item: _by_sample(item[1]), _recorded(trace))
        return {name: each for (name, _), each in zip(_recorded(trace), made, strict=True)}


def _recorded(trace: Trace) -> Iterator[tuple[str, SpikeTrain | npt.NDArray[Any]]]:
    yield LOGITS, trace.logits
    yield from trace.spikes.items()
    yield from trace.graded.items()


def _by_sample(values: SpikeTrain | npt.NDArray[Any]) -> list[list[str]]:
    """The digests of values (T, N, ...), one for each step of each sample: of spikes as bits, of all else as int32."""
    whole = values.dense() if type(values) is SpikeTrain else getattr(values, "values", lambda: values)()
    steps, samples = whole.shape[:2]
    return [[_digest(whole[step, sample]) for step in range(steps)] for sample in range(samples)]


def _digest(values: npt.NDArray[Any]) -> str:
    if values.dtype == np.bool_:
        content = np.packbits(values.reshape(-1))
    else:
        content = np.ascontiguousarray(values.astype(np.int32))
        assert (content == values).all(), "a value that takes more than 32 bits"
    return hashlib.blake2b(content.data, digest_size=DIGEST_BYTES, usedforsecurity=False).hexdigest()


def answers(program: Program, samples: npt.NDArray[np.int32]) -> list[Answer]:
    """The reference's results for each sample."""
    found = []
    for index in range(len(samples)):
        start = time.perf_counter()
        trace = reference.run(program, samples[index : index + 1], record=True)
        values = {name: each[0] for name, each in digests(trace).items()}
        found.append(Answer(values, dict(trace.saturated), dict(trace.ties)))
        print(f"the reference took {time.perf_counter() - start:.0f} s for image {index}", file=sys.stderr)
    return found


def check(trace: Trace, order: Sequence[int], known: Sequence[Answer], *, record: bool) -> Verdict:
    """Compare a run with the answers of the images that its batch holds.

    Args:
        trace: The run's trace.
        order: The index of each sample's image.
        known: The answers, by image.
        record: Whether the run had to record everything; a node that the trace then lacks counts as differing.
    """
    verdict = Verdict()
    found = digests(trace)
    names = known[0].values.keys() if record else [LOGITS]
    for name in names:
        for sample, image in enumerate(order):
            expected = known[image].values[name]
            mine = found[name][sample] if name in found else [""] * len(expected)
            for ours, theirs in zip(mine, expected, strict=True):
                verdict.note(name, ours, theirs)
    for kind in COUNTS:
        counts = [getattr(each, kind) for each in known]
        for name in counts[0]:
            verdict.note(f"{kind} of {name}", getattr(trace, kind).get(name), sum(counts[each][name] for each in order))
    return verdict


def prepare(variant: str, folder: Path, checkpoints: Path, images: int) -> None:
    """Write a program, encoded images and the reference's answers."""
    folder.mkdir(parents=True, exist_ok=True)
    net = network(variant, checkpoints)
    samples = net.samples(images)
    write_program(net.program, folder / f"{variant}.safetensors")
    np.savez_compressed(folder / f"{variant}_samples.npz", samples=samples)
    known = answers(net.program, samples)
    path = folder / f"{variant}_answers.json"
    path.write_text(json.dumps([asdict(each) for each in known]), encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)


def prepared(variant: str, folder: Path) -> tuple[Program, npt.NDArray[np.int32], list[Answer]]:
    """Read the program, the encoded images and the answers that ``prepare`` wrote."""
    program = read_program(folder / f"{variant}.safetensors")
    with np.load(folder / f"{variant}_samples.npz") as arrays:
        samples = arrays["samples"]
    content = json.loads((folder / f"{variant}_answers.json").read_text(encoding="utf-8"))
    return program, samples, [Answer(**each) for each in content]


def compare(
    variant: str, known: tuple[Program, npt.NDArray[np.int32], list[Answer]], batch: int, backend: SimBackend
) -> list[list[str]]:
    """The table's rows for one batch: the run that records everything, if any, and the run that records nothing."""
    program, samples, expected = known
    order = np.random.default_rng(batch).permutation(np.arange(batch) % len(expected)).tolist()
    rows = []
    for record in (True, False) if batch <= MOST_RECORDED else (False,):
        label = f"{variant}, batch {batch}, {'all recorded' if record else 'nothing recorded'}"
        start = time.perf_counter()
        try:
            trace = backend.run(program, samples[order], record=record, batch_size=batch)
        except Exception as error:  # noqa: BLE001 # the other batches shall run all the same
            traceback.print_exc()
            rows.append([label, "0", FAILED, f"{time.perf_counter() - start:.1f}", f"{type(error).__name__}"])
            continue
        taken = time.perf_counter() - start
        verdict = check(trace, order, expected, record=record)
        wrong = list(dict.fromkeys(verdict.wrong))
        named = ", ".join(wrong[:SHOWN]) + (f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else "")
        rows.append([label, str(verdict.compared), str(len(verdict.wrong)), f"{taken:.1f}", named or "-"])
        print(f"{label}: {len(verdict.wrong)} of {verdict.compared} differ {named}", file=sys.stderr, flush=True)
    return rows


def main() -> int:
    """Prepare, or compare and print; return 1 if anything differs or fails, else 0."""
    parser = argparse.ArgumentParser(description="Whether sim on a GPU is the reference, bit for bit.")
    parser.add_argument("--variants", nargs="*", default=["ti", "s"], metavar="NAME")
    parser.add_argument("--prepare", action="store_true", help="run the reference and write its answers")
    parser.add_argument("--images", type=int, default=4, help="with --prepare: how many")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 128], metavar="N")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "exact", help="of programs and answers")
    parser.add_argument(
        "--checkpoints", type=Path, default=ROOT / "build" / "benchmarks", help="where checkpoints are, or are made"
    )
    args = parser.parse_args()
    if args.prepare:
        for variant in args.variants:
            prepare(variant, args.folder, args.checkpoints, args.images)
        return 0
    print_machine(args.device)
    backend = SimBackend(args.device)
    rows = []
    for variant in args.variants:
        known = prepared(variant, args.folder)
        for batch in args.batches:
            rows += compare(variant, known, batch, backend)
    print_table(["", "compared", "differ", "s", "which"], rows)
    for note in backend.notes:
        print(note)
    failed = sum(row[2] == FAILED for row in rows)
    wrong = sum(int(row[2]) for row in rows if row[2] != FAILED)
    print(f"{wrong} mismatches, {failed} runs failed")
    return 1 if wrong or failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
