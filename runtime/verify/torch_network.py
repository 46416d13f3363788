"""Networks in SpikingJelly whose populations can be observed: a SpikingResformer, or a user's own module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from spikingjelly.activation_based import neuron
from torch import nn

from resformer.compiler.files.report import Options
from resformer.compiler.frontend.module.kinds import is_population, reset, step
from resformer.compiler.frontend.module.layout import Layout
from resformer.compiler.frontend.module.levels import LevelCall
from resformer.compiler.frontend.module.tracing import InFloat64
from resformer.compiler.ir.arrays import Shape
from resformer.compiler.target import LOIHI
from resformer.errors import InputError, UnsupportedError
from resformer.models.checkpoint import build_model, check_rates, load_checkpoint
from resformer.runtime.verify.roundings import Roundings

Float64Array = npt.NDArray[np.float64]

PopulationObserver: TypeAlias = Callable[[str, torch.Tensor, torch.Tensor], None]
"""Called with a population's name, its input currents and its spikes, both (T, N, ...), which it must not change."""


class TorchNetwork:
    """A network in float64, and the names of its populations.

    Args:
        model: In eval mode; a SpikingResformer, unless a subclass's ``forward`` gives samples in another way.
        fine_tuned: Whether it was fine-tuned for a program's integers, and so must be given samples rounded as the
            program's are.
    """

    source = "checkpoint"
    """The kind of source that the network came from, as messages name it."""

    def __init__(self, model: nn.Module, *, fine_tuned: bool = False) -> None:
        self.model = model
        self.fine_tuned = fine_tuned
        self.neurons: dict[str, Any] = {name: each for name, each in model.named_modules() if is_population(each)}

    def copy(self) -> TorchNetwork:
        """A copy of the network: networks keep potentials, so each thread needs its own."""
        return TorchNetwork(copy.deepcopy(self.model), fine_tuned=self.fine_tuned)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """The logits, (T, N, classes), of samples (N, C, H, W) or (N, T, C, H, W)."""
        logits: torch.Tensor = self.model(samples)
        return logits

    @torch.no_grad()
    def run(self, samples: Float64Array, observe: PopulationObserver) -> Float64Array:
        """What ``forward`` returns for samples; ``observe`` is called with each population's currents and spikes."""
        hooks = [
            module.register_forward_hook(lambda _module, inputs, spikes, name=name: observe(name, inputs[0], spikes))
            for name, module in self.neurons.items()
        ]
        try:
            reset(self.model)
            logits: Float64Array = self.forward(torch.from_numpy(samples)).numpy()
        finally:
            for hook in hooks:
                hook.remove()
        return logits

    @torch.no_grad()
    def potentials(self, name: str, neuron: int, currents: Float64Array) -> Float64Array:
        """The membrane potential of one neuron before it fires or not, at each step, (T,), in units of its threshold.

        Args:
            name: Its population.
            neuron: Its index in the flattened population, all of whose neurons have the same parameters.
            currents: The population's input currents for one sample, (T, ...).
        """
        node = copy.deepcopy(self.neurons[name])
        node.reset()
        values = []
        for current in torch.from_numpy(currents.reshape(len(currents), -1)[:, neuron, None]):
            # the potential before the reset shows if the threshold is out of reach; SpikingJelly 2.0 has no other way
            charged = copy.deepcopy(node)
            charged.v_threshold = OUT_OF_REACH
            step(charged, current)
            values.append(float(charged.v) / (node.v_threshold or 1.0))
            step(node, current)
        return np.array(values)


OUT_OF_REACH = 1e30
"""A threshold that no potential meets."""


class ModuleNetwork(TorchNetwork):
    """A user's module in float64.

    Args:
        model: In eval mode.
        names: The populations that its output depends on.
        timesteps: T.
        repeats: Whether the module repeats samples over time itself; otherwise it is given (T, N, ...).
        over_time: What it returns, (N, classes), is this factor times the mean of its logits over time: 1 for a mean, T
            for a sum. None: it returns the logits of each step.
        vectors: Whether the module takes a sample as a vector, (F,), which is (F, 1, 1) in the program.
        rows: Whether the module takes a sample as a row of pixels, (C, L), which is (C, 1, L) in the program.
        samples_first: Whether the module is given (N, T, ...) instead, and transposes that itself.
        layouts: For each population whose values are in another order than the program's, the layout of its tensors.
        shapes: For each population in ``layouts``, its shape in the program.
        stepwise: The populations that the module's code calls once for each step.
        source: The kind of source that the network came from, as messages name it.
        alone: The populations that the module gives (T * N, ...). If there are any, it is given one sample at a time.
        levels: For each rounding that its code runs, in order, the population that it belongs to; see ``Roundings``.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Collection[str],
        *,
        timesteps: int,
        repeats: bool,
        over_time: float | None,
        vectors: bool,
        rows: bool = False,
        samples_first: bool = False,
        layouts: Mapping[str, Layout] = MappingProxyType({}),
        shapes: Mapping[str, Shape] = MappingProxyType({}),
        stepwise: Collection[str] = (),
        source: str = "module",
        alone: Collection[str] = (),
        levels: Sequence[LevelCall | None] = (),
    ) -> None:
        super().__init__(model)
        self.neurons = {name: node for name, node in self.neurons.items() if name in names}
        self.timesteps = timesteps
        self.repeats = repeats
        self.over_time = over_time
        self.vectors = vectors
        self.rows = rows
        self.samples_first = samples_first
        self.layouts = layouts
        self.shapes = shapes
        self.stepwise = stepwise
        self.source = source
        self.alone = alone
        self.levels = tuple(each if each is not None and each.name in names else None for each in levels)

    def copy(self) -> ModuleNetwork:
        """A copy of the network, with its own state."""
        return self.of(copy.deepcopy(self.model))

    def of(self, model: nn.Module) -> ModuleNetwork:
        """The same network with another module of this class."""
        return ModuleNetwork(
            model,
            {*self.neurons, *(each.name for each in self.levels if each is not None)},
            timesteps=self.timesteps,
            repeats=self.repeats,
            over_time=self.over_time,
            vectors=self.vectors,
            rows=self.rows,
            samples_first=self.samples_first,
            layouts=self.layouts,
            shapes=self.shapes,
            stepwise=self.stepwise,
            source=self.source,
            alone=self.alone,
            levels=self.levels,
        )

    def run(self, samples: Float64Array, observe: PopulationObserver) -> Float64Array:
        """As ``TorchNetwork.run``; each population's values are given in the program's layout."""
        if not self.alone:
            return self._run_together(samples, observe)
        told: dict[str, list[tuple[torch.Tensor, ...]]] = {}

        def keep(name: str, *values: torch.Tensor) -> None:
            told.setdefault(name, []).append(tuple(each.clone() for each in values))

        logits = [self._run_together(samples[each : each + 1], keep) for each in range(len(samples))]
        for name, parts in told.items():
            observe(name, *(torch.cat(each, dim=1) for each in zip(*parts, strict=True)))
        return np.concatenate(logits, axis=1)

    def _run_together(self, samples: Float64Array, observe: PopulationObserver) -> Float64Array:
        """As ``run``, with all samples in one call of the module."""
        gathered: dict[str, list[tuple[torch.Tensor, ...]]] = {name: [] for name in self.stepwise}

        def arranged(name: str, *values: torch.Tensor) -> None:
            if name in gathered:
                gathered[name].append(values)
                if len(gathered[name]) < self.timesteps:
                    return
                values = tuple(torch.stack(each) for each in zip(*gathered[name], strict=True))
            if name in self.alone:
                values = tuple(each.unsqueeze(1) for each in values)
            if name in self.layouts:
                values = tuple(self.layouts[name].arrange(value, self.shapes[name]) for value in values)
            observe(name, *values)

        if not any(self.levels):
            return super().run(samples, arranged)
        unseen = [each for each in self.model.modules() if is_population(each)]
        with Roundings(self.levels, self.timesteps, observe, unseen):
            return super().run(samples, arranged)

    def potentials(self, name: str, neuron: int, currents: Float64Array) -> Float64Array:
        """See ``TorchNetwork``; for neurons of levels, ``currents`` already are the potentials that they round."""
        if name in self.neurons:
            return super().potentials(name, neuron, currents)
        return currents.reshape(len(currents), -1)[:, neuron]

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """The logits, (T, N, classes); or their mean over time, (1, N, classes), if the module returns a mean or a sum.

        Raises:
            InputError: The module repeats samples over time itself, but these samples have a frame for each step.
        """
        static = samples.dim() == SAMPLE_AXES + 1
        if self.repeats and not static:
            raise InputError(
                "samples: there is a frame for each step, but the module repeats one image over time itself; give "
                "(N, C, H, W)"
            )
        if self.vectors:
            samples = samples.flatten(-SAMPLE_AXES)
        if self.rows:
            samples = samples.squeeze(-2)
        if not self.repeats:
            samples = samples.expand(self.timesteps, *samples.shape) if static else samples.transpose(0, 1)
            samples = samples.transpose(0, 1) if self.samples_first else samples
        with InFloat64():
            returned = self.model(samples.contiguous())
        logits: torch.Tensor
        (logits,) = (each for each in returned if each is not None) if isinstance(returned, tuple) else (returned,)
        return logits if self.over_time is None else logits[None] / self.over_time


SAMPLE_AXES = 3
"""The number of axes of a sample without time: (C, H, W)."""


def truncates_nothing(network: TorchNetwork, timesteps: int) -> bool:
    """Whether a program compiled from these neurons truncates no potential: all are IF, or LIF of tau 2 and T <= 7."""
    kinds = [
        type(node) is neuron.IFNode or (type(node) is neuron.LIFNode and node.tau == 2.0 and timesteps <= EXACT_STEPS)
        for node in network.neurons.values()
    ]
    return all(kinds)


EXACT_STEPS = LOIHI.a_shift + 1
"""The number of steps in which a potential that is halved before each new step is not truncated."""


def open_checkpoint(path: Path, *, timesteps: int, image_size: int, chosen: Options | None = None) -> TorchNetwork:
    """A checkpoint's network in float64.

    Args:
        path: The file.
        timesteps: T.
        image_size: Edge of the square input, in pixels.
        chosen: The options that the user gave when the file was compiled; None: the defaults.

    Raises:
        ResformerError: The file is no checkpoint of a SpikingResformer, or of one for images of another size.
    """
    if chosen is None:
        checkpoint = load_checkpoint(path)
        model = build_model(checkpoint, timesteps=timesteps, image_size=image_size)
    else:
        checkpoint = load_checkpoint(path, weights_key=chosen["weights_key"])
        model = build_model(
            checkpoint,
            timesteps=timesteps,
            image_size=image_size,
            neuron=chosen["neuron"],
            stem_stride=chosen["stem_stride"],
            stem_pool=chosen["stem_pool"],
            feature_rounding=chosen["feature_rounding"],
        )
    try:
        check_rates(checkpoint.state)
    except UnsupportedError as error:
        raise UnsupportedError(f"{path}: {error}") from error
    return TorchNetwork(model, fine_tuned=checkpoint.quantization is not None)
