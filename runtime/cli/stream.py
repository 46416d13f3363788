"""``resformer-run --stream``: run a recording of any length, in memory that does not depend on its length."""

from __future__ import annotations

import argparse
import tempfile
import time
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any

from resformer.compiler.atomic import write_atomically
from resformer.compiler.ir.summary import counted
from resformer.runtime.cli.event_options import event_binning
from resformer.runtime.cli.outputs import terminal_for
from resformer.runtime.cli.sample_options import PREPROCESSING
from resformer.runtime.cli.terminal import DONE, UsageError
from resformer.runtime.run.processes import Processes

if TYPE_CHECKING:
    from resformer.runtime.run.infer import Inference

EXCLUDED = (
    "record_spikes", "cost", "report", "labels", "samples", "self_check", "stock_models", "preprocessing",
    *PREPROCESSING,
)  # fmt: skip
"""Options that ``--stream`` excludes, under their names in the parsed arguments."""


def check_stream_usage(arguments: argparse.Namespace, processes: Processes) -> None:
    """Find out before any work is done that the other arguments do not go with ``--stream``.

    Raises:
        UsageError: They do not.
    """
    for name in EXCLUDED:
        if getattr(arguments, name) not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')}: does not go with --stream; leave one out")
    if processes.count > 1:
        raise UsageError("--stream: runs in one process; start it without torchrun")
    if arguments.input.is_dir():
        raise UsageError("--stream: takes a recording or an array of frames; leave it out for a folder of images")


def run_stream(arguments: argparse.Namespace) -> int:
    """Run a recording, write its results, and print a summary; returns the exit status."""
    import numpy as np

    from resformer.runtime.compiled import load
    from resformer.runtime.run.infer import predictions_in_words, saturated_in_words, to_know_unrecorded

    terminal = terminal_for(arguments)
    started = time.perf_counter()
    with terminal.progress() as update, ExitStack() as opened:
        update("reading", 0, 0)
        compiled = load(arguments.build)
        spool = _Spool(opened) if arguments.output is not None else None
        histogram = np.zeros(compiled.program.output.shape[0], dtype=np.int64)
        clipped = samples = 0
        largest, silent = 0.0, True
        saturated: dict[str, int] = {}
        uncounted: tuple[str, ...] = ()
        notes: dict[str, None] = {}
        parts = compiled.stream(
            arguments.input,
            backend=arguments.backend,
            binning=event_binning(arguments),
            batch_size=arguments.batch_size,
            device=arguments.device,
        )
        for part in parts:
            samples += len(part.predictions)
            histogram += np.bincount(part.predictions, minlength=len(histogram))
            clipped += part.clipped
            largest = max(largest, part.largest)
            silent = silent and not part.logits_int.any()
            notes |= dict.fromkeys(part.notes)
            uncounted = part.uncounted
            for name, count in part.saturated.items():
                saturated[name] = saturated.get(name, 0) + count
            if spool is not None:
                spool.add(part)
            speed = samples / (time.perf_counter() - started)
            update(f"streaming through {arguments.backend}, {samples} samples, {speed:.3g} samples/s", 0, 0)
        if spool is not None:
            write_atomically(arguments.output, lambda file: spool.write(file, compiled.held.classes))
    steps, classes = compiled.program.timesteps, compiled.held.classes
    rows = [
        ("samples", f"{samples:,}, {steps} steps each"),
        ("time", f"{time.perf_counter() - started:.1f} s in {arguments.backend}"),
        ("predictions", predictions_in_words(histogram, classes)),
        ("input values clipped", f"{clipped:,}"),
        ("values saturated", saturated_in_words(compiled.program, saturated, uncounted, arguments.backend)),
    ]
    for note in notes:
        terminal.line(f"note: {note}")
    for each in to_know_unrecorded(compiled.program, clipped=clipped, largest=largest, silent=silent):
        terminal.warning(each, style="yellow")
    if arguments.output is not None:
        terminal.wrote(arguments.output)
    terminal.table(f"{arguments.build} on {arguments.input.name}, streamed", ("what", "value"), rows)
    if terminal.quiet:
        terminal.verdict(f"{counted(samples, 'sample')} streamed through {arguments.backend}")
    return DONE


class _Spool:
    """Results in temporary files until all are there: the header of an array file must say how many there are."""

    NAMES = ("logits", "predictions", "logits_int")

    def __init__(self, opened: ExitStack) -> None:
        self._files: dict[str, IO[bytes]] = {
            name: opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 # it is one
            for name in self.NAMES
        }
        self._kinds: dict[str, tuple[Any, tuple[int, ...]]] = {}
        self._count = 0

    def add(self, part: Inference) -> None:
        """Append the results of some samples."""
        import numpy as np

        self._count += len(part.predictions)
        for name, file in self._files.items():
            array = np.ascontiguousarray(getattr(part, name))
            self._kinds[name] = array.dtype, array.shape[1:]
            file.write(array.tobytes())

    def write(self, target: IO[Any], classes: Sequence[str] | None) -> None:
        """Write the file that ``resformer-run -o`` would write for the same samples."""
        import shutil

        import numpy as np

        from resformer.runtime.run.recorded import RESULT_FORMAT_VERSION

        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("format_version.npy", "w") as member:
                np.lib.format.write_array(member, np.array(RESULT_FORMAT_VERSION))
            if classes is not None:
                with archive.open("classes.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(classes))
            for name, (dtype, shape) in self._kinds.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    header = {
                        "descr": np.lib.format.dtype_to_descr(dtype),
                        "fortran_order": False,
                        "shape": (self._count, *shape),
                    }
                    np.lib.format.write_array_header_1_0(member, header)
                    self._files[name].seek(0)
                    shutil.copyfileobj(self._files[name], member, 2**20)
