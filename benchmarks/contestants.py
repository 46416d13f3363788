"""The contestants of sim_vs_spikingjelly.py, each in a process of its own: two SpikingJellys cannot share a process.

The command line tells the process which contestant it is. Each line of standard input is a command in JSON, which it
answers with a line of JSON. ``{"do": "prepare"}`` runs the batch for the first time, which compiles what has to be
compiled; ``{"do": "round"}`` times the batch. The process ends when its input ends.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

SIM = "sim"
SECOND = "2"
"""The part of a name that says SpikingJelly 2."""
RECOMPILATIONS = 64
WARM_UPS = 2
"""Runs that do not count at the beginning of a round of several runs."""

Logits: TypeAlias = npt.NDArray[np.float64]
Run: TypeAlias = Callable[[], Logits]


@dataclass(frozen=True)
class Contestant:
    """One way to run a network.

    Attributes:
        name: Words from ``PARTS``, joined by hyphens, such as ``2-compiled-autocast``.
    """

    name: str

    PARTS = (SIM, "narrow", SECOND, "eager", "compiled", "frozen", "graphs", "cupy", "autocast")

    def __post_init__(self) -> None:
        unknown = self.parts - set(self.PARTS)
        if unknown or not self.parts:
            raise ValueError(f"{self.name}: {', '.join(sorted(unknown))} is none of {', '.join(self.PARTS)}")

    @property
    def parts(self) -> set[str]:
        """The words of the name."""
        return set(self.name.split("-"))

    @property
    def title(self) -> str:
        """The name in a table."""
        if SIM in self.parts:
            return self.name
        rest = "-".join(part for part in self.name.split("-") if part != SECOND)
        return f"SpikingJelly 2 {rest}" if SECOND in self.parts else f"SpikingJelly {rest}"


@dataclass(frozen=True)
class Task:
    """What a process runs.

    Attributes:
        contestant: The contestant's name.
        checkpoint: The float network's file.
        program: The integer network's file.
        images: The file of the images, (8 or more, ...), float32.
        batch: The number of images in a batch.
        batches: The number of batches in a run, one after the other, so that copies and computation may overlap.
        device: The device of torch, such as "cuda".
        threads: The number of torch's threads.
        from_host: Whether SpikingJelly's images lie in the host's memory, as sim's do, when the clock starts.
    """

    contestant: str
    checkpoint: str
    program: str
    images: str
    batch: int
    batches: int
    device: str
    threads: int
    from_host: bool


@dataclass(frozen=True)
class Round:
    """Time, energy and memory of a round, for one batch.

    Attributes:
        wall: Seconds.
        cpu: Seconds of processor time, of all threads.
        joules: Energy of the whole device, by its own counter; None if the counter cannot be read.
        peak_bytes: The most memory of the device that torch reserved in the round; None on a CPU.
    """

    wall: float
    cpu: float
    joules: float | None
    peak_bytes: int | None


def sim(task: Task) -> Run:
    """Return a function that runs the images in sim, from the host's memory to the host's memory."""
    from resformer.compiler.backends.sim import SimBackend
    from resformer.compiler.files.program import read_program
    from resformer.runtime.run.encode import encode, real_logits

    program = read_program(Path(task.program))
    backend = SimBackend(task.device)
    one = encode(_images(task).astype(np.float64), program).values
    values = np.concatenate([one] * task.batches)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if "narrow" in Contestant(task.contestant).parts:
        values = values.astype(np.promote_types(np.min_scalar_type(low), np.min_scalar_type(high)))
    batch_size = None if task.device == "cpu" else task.batch

    def run() -> Logits:
        logits = backend.run(program, values, batch_size=batch_size).logits
        return real_logits(logits[:, : task.batch], program)

    return run


def spikingjelly(task: Task) -> Run:
    """Return a function that runs the images in SpikingJelly; the first call may compile."""
    from spikingjelly.activation_based import functional, neuron

    from resformer.models.checkpoint import build_model, load_checkpoint

    parts = Contestant(task.contestant).parts
    device = torch.device(task.device)
    model = build_model(load_checkpoint(task.checkpoint), dtype=torch.float32).to(device)
    if "cupy" in parts:
        functional.set_backend(model, "cupy", neuron.BaseNode)
        for module in model.modules():
            if isinstance(module, neuron.BaseNode):
                module.training = True  # 0.0.0.0.14 uses the backend's kernels only in training; spikes are the same
    forward: Callable[[torch.Tensor], torch.Tensor] = model
    if {"compiled", "frozen", "graphs"} & parts:
        torch._dynamo.config.recompile_limit = RECOMPILATIONS
        options: dict[str, Any] = {"options": {"freezing": "frozen" in parts}}
        forward = torch.compile(model, dynamic=False, **({"mode": "reduce-overhead"} if "graphs" in parts else options))
    torch.backends.cudnn.benchmark = True
    images = torch.from_numpy(_images(task))
    given = images if task.from_host else images.to(device)
    half = torch.bfloat16 if device.type == "cpu" else torch.float16

    def run() -> Logits:
        # compiled code runs in no_grad: inference_mode refuses frozen weights, and does not make it faster
        with (
            torch.inference_mode() if forward is model else torch.no_grad(),
            torch.autocast(device.type, half, enabled="autocast" in parts),
        ):
            for _ in range(task.batches):
                functional.reset_net(model)
                made = forward(given.to(device)).float()
            return made.cpu().numpy().astype(np.float64)

    return run


def _images(task: Task) -> npt.NDArray[np.float32]:
    images = np.load(task.images)
    return np.take(images, np.arange(task.batch) % len(images), axis=0)


class EnergyCounter:
    """A GPU's own counter of the energy that it has used since its driver was loaded."""

    def __init__(self, device: str) -> None:
        self._handle: Any = None
        if device == "cpu":
            return
        with contextlib.suppress(Exception):  # without the package or the counter, the energy cannot be read
            import pynvml

            pynvml.nvmlInit()
            if pynvml.nvmlDeviceGetCount() == 1:
                handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            else:
                uuid = torch.cuda.get_device_properties(torch.device(device)).uuid
                handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            self._read, self._handle = pynvml.nvmlDeviceGetTotalEnergyConsumption, handle

    def joules(self) -> float | None:
        """The counter's value now; None if it cannot be read."""
        return None if self._handle is None else self._read(self._handle) / 1e3


def timed(run: Run, task: Task, seconds: float, energy: EnergyCounter) -> Round:
    """Run the batch repeatedly for ``seconds`` seconds after warming up; only once, without warm-up, if that is 0."""
    on_device = task.device != "cpu"
    if on_device:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(torch.device(task.device))
    for _ in range(WARM_UPS if seconds else 0):
        run()
    count = 0
    joules, wall, cpu = energy.joules(), time.perf_counter(), time.process_time()
    walls = []
    while not count or time.perf_counter() - wall < seconds:
        start = time.perf_counter()
        run()  # it returns when the logits have arrived, so all work is done
        walls.append(time.perf_counter() - start)
        count += 1
    cpu = (time.process_time() - cpu) / count
    now = energy.joules()
    peak = torch.cuda.max_memory_reserved(torch.device(task.device)) if on_device else None
    if on_device:
        torch.cuda.empty_cache()  # leave the memory to the other contestants on this device
    spent = None if joules is None or now is None else (now - joules) / count
    each = task.batches
    return Round(float(np.median(walls)) / each, cpu / each, None if spent is None else spent / each, peak)


def serve(task: Task, answer: Callable[[dict[str, Any]], None], commands: Iterator[str]) -> None:
    """Carry out commands until there are no more."""
    torch.set_num_threads(task.threads)
    run: Run | None = None
    energy = EnergyCounter(task.device)
    for line in commands:
        command = json.loads(line)
        if command["do"] == "prepare":
            try:
                run = (sim if SIM in Contestant(task.contestant).parts else spikingjelly)(task)
                logits = run()
                run()  # the first call turns neurons' states into tensors, and some contestants then compile again
            except Exception as error:  # noqa: BLE001 # torch.compile raises all kinds
                traceback.print_exc()
                brief = (str(error).strip().splitlines() or [type(error).__name__])[0]
                answer({"error": f"{type(error).__name__}: {brief}"})
                return
            gc.collect()
            if task.device != "cpu":
                torch.cuda.empty_cache()
            classes = logits.mean(0).argmax(-1).tolist()
            answer({"classes": classes})
        else:
            assert run is not None, "not prepared"
            answer(asdict(timed(run, task, command["seconds"], energy)))


def main() -> None:
    """Run as the contestant that the command line names."""
    task = Task(**json.loads(sys.argv[1]))
    # answers get a descriptor of their own, so that what libraries print does not mix with them
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    serve(task, answer, iter(sys.stdin.readline, ""))


if __name__ == "__main__":
    main()
