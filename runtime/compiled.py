"""Modules in memory: compiled, run and verified without a file between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from resformer.compiler.backends import BACKENDS
from resformer.compiler.export.checkpoint import inexact_module_terms, pool_area, quantized_module_state
from resformer.compiler.files.build import TARGETS, write_build
from resformer.compiler.frontend.module.operations import Axes
from resformer.compiler.ir import float_interpreter
from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.program import Conv2d, Dense, Program
from resformer.compiler.pipeline import MODULE_PASSES, Compilation, CompileOptions, ModuleSource
from resformer.compiler.pipeline import compile_module as compile_to_program
from resformer.compiler.samples.arrays import Samples, check_labels, check_samples
from resformer.errors import InputError, UnsupportedError
from resformer.runtime.run.infer import Inference, infer
from resformer.runtime.verify.checks import Sides, logit_errors
from resformer.runtime.verify.torch_network import ModuleNetwork
from resformer.runtime.verify.verify import Verification, float_graphs, verify_sides

if TYPE_CHECKING:
    import nir


Float64Array = npt.NDArray[np.float64]

LOGIT_TOLERANCE = 1e-9
"""Sums in another order differ in their last bits."""


@dataclass(frozen=True, eq=False)
class CompiledModule:
    """A module, compiled.

    Attributes:
        compilation: The float graph, the integer program and what they were made with.
        options: What the user chose.
        targets: Of ``resformer.compiler.files.build.TARGETS``; the first that is a backend runs it unless another is
            named.
    """

    compilation: Compilation
    options: CompileOptions
    targets: tuple[str, ...]

    @property
    def program(self) -> Program:
        """The scheduled integer program."""
        return self.compilation.program

    @property
    def graph(self) -> Graph[nir.NIRNode]:
        """The float graph after all float passes."""
        return self.compilation.folded

    @property
    def source(self) -> ModuleSource:
        """The module, in float64."""
        assert self.compilation.source.module is not None
        return self.compilation.source.module

    def save(self, path: str | Path) -> tuple[Path, ...]:
        """Write a build folder, as resformer-compile does, and return its files.

        Raises:
            ResformerError: The path is taken by something that is no build.
            OSError: A file cannot be written.
        """
        return write_build(self.compilation, Path(path), self.targets, self.options)

    def quantized_state(self) -> dict[str, torch.Tensor]:
        """The quantized network as a state dict of the module's class, in float64: load it after ``model.double()``."""
        source, compilation = self.source, self.compilation
        return quantized_module_state(
            compilation.quantized, compilation.folded, source.traced.graph, source.module.state_dict()
        )

    def run(
        self, samples: npt.ArrayLike | torch.Tensor, *, backend: str | None = None, record: bool = False
    ) -> Inference:
        """Inference by a backend.

        Args:
            samples: (N, C, H, W), one image for all steps, or (N, T, C, H, W), a frame for each; or (N, F).
            backend: A key of ``BACKENDS``; the first target that is one, else "sim".
            record: Keep every population's spikes.

        Raises:
            ResformerError: The samples do not fit, or the backend failed.
        """
        backend = self._backend(backend)
        checked = self._samples(samples)
        return infer(self.program, checked, backend, record=record)

    def verify(
        self,
        samples: npt.ArrayLike | torch.Tensor,
        *,
        backend: str | None = None,
        labels: npt.ArrayLike | None = None,
    ) -> Verification:
        """The four equivalences, every spike of every population.

        Args:
            samples: As ``run`` takes them.
            backend: Likewise.
            labels: (N,), for accuracies.

        Raises:
            ResformerError: The samples do not fit, or the backend failed.
        """
        checked, classes = self._samples(samples), self.program.output.shape[0]
        known = None if labels is None else check_labels(np.asarray(labels), len(checked), classes, "labels")
        return verify_sides(self.network(), checked, backend=self._backend(backend), is_source=True, labels=known)

    def network(self) -> Sides:
        """The sides that verifying compares."""
        compilation, imported = self.compilation, self.source.traced.graph
        original = self._original()
        quantized = original.copy()
        quantized.model.load_state_dict(self.quantized_state())
        layers = [node.name for node in compilation.quantized if isinstance(node.op, Conv2d | Dense)]
        return Sides(
            self.program,
            float_graphs(imported, MODULE_PASSES),
            original,
            quantized,
            inexact=inexact_module_terms(compilation.quantized, compilation.folded, imported),
            pool_areas={name: pool_area(compilation.folded, name) for name in layers},
        )

    def _original(self) -> ModuleNetwork:
        traced = self.source.traced
        return ModuleNetwork(
            self.source.module,
            self.program.lif_names,
            timesteps=self.program.timesteps,
            repeats=traced.axes is Axes.STATIC,
            mean_over_time=traced.mean_over_time,
            vectors="input.flatten" in traced.graph,
        )

    def _samples(self, samples: npt.ArrayLike | torch.Tensor) -> Samples:
        array = samples.detach().cpu().numpy() if isinstance(samples, torch.Tensor) else np.asarray(samples)
        return check_samples(array, self.program, "samples")

    def _backend(self, wanted: str | None) -> str:
        return wanted or next((target for target in self.targets if target in BACKENDS), "sim")


def compile_module(
    module: nn.Module,
    example_input: torch.Tensor,
    *,
    target: str | Sequence[str] = "lava",
    output: str | Path | None = None,
    options: CompileOptions | None = None,
) -> CompiledModule:
    """Compile a SpikingJelly module in memory, and prove that the graph made of it fires its spikes.

    docs/modules.md says what the module may hold.

    Args:
        module: In any mode and type: what it computes in eval mode and float64 is compiled. It forgets its potentials
            and is else left alone.
        example_input: Samples as its ``forward`` takes them: (T, N, C, H, W) or (T, N, F), or (N, C, H, W) or (N, F) if
            it repeats them over time itself. The graph is compared with the module on them.
        target: Of "lava", "sim", "onnx" and "nir", one or several: a sequence, or separated by commas.
        output: A folder to write the build to, as ``CompiledModule.save`` does.
        options: Quantization, calibration samples, a chip; the defaults where None.

    Raises:
        ResformerError: The module or a choice cannot be compiled; the message names the node and the line of code.
    """
    targets = tuple(dict.fromkeys(target.split(",") if isinstance(target, str) else target))
    for each in targets or (target,):
        if each not in TARGETS:
            raise InputError(f"target: {each!r} is none of {', '.join(TARGETS)}")
    options = options or CompileOptions()
    compiled = CompiledModule(compile_to_program(module, example_input, options), options, targets)
    samples = _as_samples(example_input)
    # a single sample too, lest what it fires depend on the others
    for part in (samples, samples[:1]):
        _require_same_spikes(compiled._original(), compiled.source.traced.graph, part)
    if output is not None:
        compiled.save(output)
    return compiled


def _as_samples(example: torch.Tensor) -> Float64Array:
    """An example as a program's samples: (N, C, H, W) or (N, T, C, H, W), vectors being images of one pixel."""
    example = example.detach().cpu().double()
    timed = example.dim() in (3, 5)
    example = example.transpose(0, 1) if timed else example
    samples: Float64Array = (example if example.dim() > 3 else example[..., None, None]).numpy()
    return samples


def _require_same_spikes(original: ModuleNetwork, graph: Graph[nir.NIRNode], samples: Float64Array) -> None:
    """See that a module and the graph made of it fire the same spikes and give the same logits, in float64.

    Raises:
        UnsupportedError: They do not: the module does what does not show in its operations.
    """
    expected: dict[str, torch.Tensor] = {}
    logits = original.run(samples, lambda name, _current, spikes: expected.update({name: spikes.clone()}))

    def compare(name: str, value: torch.Tensor) -> None:
        if name in expected:
            differ = int(torch.count_nonzero(value.reshape(expected[name].shape) != expected[name]))
            if differ:
                raise UnsupportedError(
                    f"{name}: {differ} of {value.numel()} spikes are not the module's on the example; it keeps a "
                    "state, draws random numbers, or treats samples unlike, and its operations do not show that: leave "
                    "it out"
                )

    error = logit_errors(float_interpreter.run(graph, samples, observe=compare).numpy(), logits).max()
    if error > LOGIT_TOLERANCE * max(np.abs(logits).max(), 1.0):
        raise UnsupportedError(
            f"{graph.output.name}: a logit differs from the module's by {error:.3g} on the example, though no spike "
            "does; leave out what comes after the classifier"
        )
