"""Runs programs fast: tiles of samples over threads on a CPU, or a batch at a time on a GPU."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from resformer.compiler.backends.base import StepProgress, check_range, check_samples, check_shape, does_not_fit
from resformer.compiler.backends.sim.byte_products import events_pay
from resformer.compiler.backends.sim.cpu_kernels import CpuKernels, can_attend, compiled_loops
from resformer.compiler.backends.sim.engine import Engine, Workers
from resformer.compiler.backends.sim.frame import is_out_of_memory
from resformer.compiler.backends.sim.gpu.batches import Batches, Pending, finish
from resformer.compiler.backends.sim.plan import Plan, build_plan
from resformer.compiler.backends.sim.products import Products
from resformer.compiler.backends.sim.recorder import Recorder
from resformer.compiler.backends.sim.team import ALONE, Team
from resformer.compiler.backends.sim.torch_kernels import TorchKernels
from resformer.compiler.ir.program import Program
from resformer.compiler.ir.trace import Trace
from resformer.errors import BackendMissingError

DEVICE_BATCH = 32
"""Samples at a time on a GPU, unless the caller says otherwise."""
TILE_BYTES = 1 << 22
"""The most bytes that a tile's largest value should take on a CPU; a small network runs several samples at a time."""


class SimBackend:
    """The fast backend, bit-exact with the reference.

    Args:
        device: "cpu", or "cuda" (or "cuda:1").

    Raises:
        BackendMissingError: This machine has no such device.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise BackendMissingError(
                f"device {device}: this machine's torch {torch.__version__} sees no GPU; use --device cpu, or install "
                "a CUDA build of torch: pip install --upgrade torch"
            )
        if self._device.type == "cuda" and (self._device.index or 0) >= torch.cuda.device_count():
            raise BackendMissingError(
                f"device {device}: this machine has {torch.cuda.device_count()} GPUs, numbered from 0; give another"
            )
        self._threads: Workers | None = None
        self._engines: dict[tuple[int, bool, bool, int | None, bool], Engine] = {}
        self._products = {each: Products(self_check=each) for each in (False, True)}
        self._batches: dict[Engine, Batches] = {}
        self._program: Program | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the kernels that the last program could not use on this machine, and what replaced each."""
        return tuple(dict.fromkeys(note for each in self._products.values() for note in each.notes))

    def run(
        self,
        program: Program,
        samples: npt.NDArray[np.integer],
        *,
        record: bool = False,
        progress: StepProgress | None = None,
        batch_size: int | None = None,
        self_check: bool = False,
    ) -> Trace:
        """Run samples through a program, as ``resformer.compiler.backends.base.Backend`` says.

        The program's plan and packed weights are made once; they are kept for the next run of the same program object.

        Args:
            program: Scheduled or not.
            samples: (N, C, H, W), the same frame for all T steps, or (N, T, C, H, W); encoded.
            record: Keep every LIF's spikes and every graded value; they take memory for all samples.
            progress: Called with the number of samples that are done.
            batch_size: The most samples in memory at once, for each thread on a CPU; None: as many as are fast.
            self_check: Check every product of the run in int64, beside the trial of its kernel when it was bound.
                A run of SpikingResformer-Ti takes three to four times as long.

        Raises:
            CapacityError: The samples of a batch do not fit the device's memory.
            BackendFailedError: A product was summed wrongly, or this machine has no kernel that sums it rightly.
            AssertionError: A sample leaves the range that the program promises of its input.
        """
        # on a GPU, each batch's range is checked while the device computes the batch before
        later = self._device.type != "cpu" and not record and not self_check
        (check_shape if later else check_samples)(program, samples)
        if program is not self._program:
            self._program, self._engines, self._batches = program, {}, {}
            for each in self._products.values():
                each.notes.clear()
        recorder = Recorder(program, len(samples), values=record)
        try:
            with _exact_float32():
                if self._device.type == "cpu":
                    finished = self._run_on_cpu(program, samples, recorder, batch_size, self_check)
                else:
                    finished = self._run_in_batches(program, samples, recorder, batch_size or DEVICE_BATCH, self_check)
                for done in finished:
                    if progress is not None:
                        progress(done, len(samples))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            at_once = batch_size or (len(samples) if self._device.type == "cpu" else DEVICE_BATCH)
            recorded = ", with all values recorded" if record else ""
            raise does_not_fit(min(at_once, len(samples)), f"the memory of {self._device}{recorded}") from error
        return recorder.trace()

    def _run_on_cpu(
        self,
        program: Program,
        samples: npt.NDArray[np.integer],
        recorder: Recorder,
        batch_size: int | None,
        self_check: bool,
    ) -> Iterator[int]:
        """Run one tile on each thread at a time; all threads share each of the last few tiles. Yields samples done."""
        workers = self._workers()
        tile = _tile_samples(program, len(samples), workers.count, batch_size)
        side_by_side = len(samples) // (tile * workers.count) * workers.count
        if side_by_side:
            engine = self._engine(program, samples, tile, recorder, self_check, sharing=1)

            def run_tile(start: int) -> int:
                engine.run(samples[start : start + tile], recorder, start)
                return start + tile

            yield from workers.map(run_tile, range(0, side_by_side * tile, tile))
        for start in range(side_by_side * tile, len(samples), tile):
            count = min(tile, len(samples) - start)
            engine = self._engine(program, samples, count, recorder, self_check, sharing=workers.count)
            part = samples[start : start + count]
            if shares_rows():
                # one thread runs the Python code, and shares the compiled loops with the others
                list(workers.map(functools.partial(engine.run, part, recorder), [start]))
            else:
                engine.run(part, recorder, start, workers)
            yield start + count

    def _run_in_batches(
        self,
        program: Program,
        samples: npt.NDArray[np.integer],
        recorder: Recorder,
        batch_size: int,
        self_check: bool,
    ) -> Iterator[int]:
        """Run batches in order, and begin the next before the last one is done. Yields samples done."""
        pending: list[Pending] = []

        def finished() -> int:
            batch = pending.pop(0)
            finish(batch, recorder)
            return batch.first_sample + batch.logits.shape[1]

        with torch.cuda.device(self._device):
            for start in range(0, len(samples), batch_size):
                count = min(batch_size, len(samples) - start)
                part = samples[start : start + count]
                engine = self._engine(program, samples, count, recorder, self_check, sharing=None)
                if recorder.keeps_values or self_check:
                    engine.run(part, recorder, start)
                    yield start + count
                    continue
                batches = self._batches_of(engine)
                check_range(program, *batches.stage(part))
                pending.append(batches.begin(start))
                if len(pending) > 1:
                    yield finished()
            while pending:
                yield finished()

    def _batches_of(self, engine: Engine) -> Batches:
        """The object that runs an engine's batches; it is made once."""
        if engine not in self._batches:
            self._batches[engine] = Batches(engine, self._device, capture=not engine.waits)
        return self._batches[engine]

    def _engine(
        self,
        program: Program,
        samples: npt.NDArray[np.integer],
        count: int,
        recorder: Recorder,
        self_check: bool,
        *,
        sharing: int | None,
    ) -> Engine:
        """The engine for tiles of ``count`` samples, which ``sharing`` threads share; None: on a GPU."""
        static = samples.ndim == 4
        key = (count, static, recorder.keeps_values, sharing, self_check)
        if key in self._engines:
            return self._engines[key]
        on_cpu = self._device.type == "cpu"
        products = self._products[self_check]

        # a self-check checks each product by itself; fused kernels do not return their products
        fused = None if on_cpu or self_check or not has_triton() else _fused_kernels()

        by_rows = on_cpu and shares_rows()
        team = self._workers().team() if by_rows and sharing != 1 else ALONE

        def bind(sharing: int | None) -> Engine:
            plan = build_plan(
                program,
                samples=count,
                static_input=static,
                keep_graded=recorder.keeps_values,
                workers=1 if by_rows else sharing,
                can_attend=can_attend if on_cpu else fused.can_attend if fused is not None else None,
                can_join=fused.can_join if fused is not None else None,
            )
            return Engine(plan, self._kernels(plan, products, fused, team))

        # bind on a thread like those that will run the engine, so that kernels are tried as they will run
        (engine,) = self._workers().map(bind, [sharing]) if on_cpu else [bind(sharing)]
        self._engines[key] = engine
        return engine

    def _kernels(self, plan: Plan, products: Products, fused: ModuleType | None, team: Team) -> TorchKernels:
        """The kernels that bind a plan's steps on this device."""
        if self._device.type == "cpu":
            return CpuKernels(plan, products, team)
        if fused is None:
            return TorchKernels(plan, self._device, int8=True, products=products)
        kernels: TorchKernels = fused.GpuKernels(plan, self._device, products)
        return kernels

    def _workers(self) -> Workers:
        """The threads, as many as torch would use."""
        if self._threads is None or self._threads.count != torch.get_num_threads():
            self._threads = Workers(torch.get_num_threads())
        return self._threads


def shares_rows() -> bool:
    """Whether threads share a sample by rows, in our compiled loops; otherwise they share it by blocks of channels."""
    return events_pay() and compiled_loops() is not None


def has_triton() -> bool:
    """Whether Triton is installed, which compiles the kernels of ``gpu``."""
    return importlib.util.find_spec("triton") is not None


def _fused_kernels() -> ModuleType:
    """The kernels in Triton, imported here because the import takes a second."""
    return importlib.import_module("resformer.compiler.backends.sim.gpu.kernels")


def _tile_samples(program: Program, samples: int, workers: int, batch_size: int | None) -> int:
    """The number of samples in a tile: as many as fit the cache, at most a thread's share and ``batch_size``."""
    largest = max(math.prod(node.shape) for node in program) * program.timesteps * 4
    fast = max(TILE_BYTES // largest, 1)
    shared = -(-samples // workers)
    return max(min(fast, shared, batch_size or samples), 1)


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Keep torch from rounding float32 products to fewer bits, which its settings may allow."""
    mkldnn: Any = torch.backends.mkldnn
    kinds = [torch.backends.cuda.matmul, mkldnn.matmul, mkldnn.conv]
    if not all(hasattr(kind, "fp32_precision") for kind in kinds):  # before torch 2.9
        allowed = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(allowed)
        return
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision
