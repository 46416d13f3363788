"""Networks in SpikingJelly whose populations can be listened to: a SpikingResformer, or a user's own module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from spikingjelly.activation_based import functional, neuron
from torch import nn

from resformer.compiler.files.report import Options
from resformer.compiler.frontend.module.layout import Layout
from resformer.compiler.frontend.module.levels import LevelCall
from resformer.compiler.ir.arrays import Shape
from resformer.errors import InputError
from resformer.models.checkpoint import build_model, load_checkpoint
from resformer.runtime.verify.roundings import Roundings

Float64Array = npt.NDArray[np.float64]

PopulationObserver: TypeAlias = Callable[[str, torch.Tensor, torch.Tensor], None]
"""Called with a population's name, its input currents and its spikes, both (T, N, ...), which it must not change."""


class TorchNetwork:
    """A network in float64, and the names of its populations.

    Args:
        model: In eval mode; a SpikingResformer, unless ``forward`` says how else it takes samples.
        fine_tuned: Whether its weights are a program's, so that it is to be given samples rounded as the program's are.
    """

    source = "checkpoint"
    """What messages call where it came from."""

    def __init__(self, model: nn.Module, *, fine_tuned: bool = False) -> None:
        self.model = model
        self.fine_tuned = fine_tuned
        self.neurons: dict[str, neuron.BaseNode] = {
            name: module for name, module in model.named_modules() if isinstance(module, neuron.BaseNode)
        }

    def copy(self) -> TorchNetwork:
        """Another one like it: networks keep potentials, so each thread needs its own."""
        return TorchNetwork(copy.deepcopy(self.model), fine_tuned=self.fine_tuned)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """The logits, (T, N, classes), of samples (N, C, H, W) or (N, T, C, H, W)."""
        logits: torch.Tensor = self.model(samples)
        return logits

    @torch.no_grad()
    def run(self, samples: Float64Array, observe: PopulationObserver) -> Float64Array:
        """What ``forward`` returns of samples, each population's spikes told."""
        hooks = [
            module.register_forward_hook(lambda _module, inputs, spikes, name=name: observe(name, inputs[0], spikes))
            for name, module in self.neurons.items()
        ]
        try:
            functional.reset_net(self.model)
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
            neuron: Its index in the flattened population; all have the same parameters.
            currents: What the population is given by one sample, (T, ...).
        """
        node = copy.deepcopy(self.neurons[name])
        node.reset()
        node.step_mode = "s"
        values = []
        for current in torch.from_numpy(currents.reshape(len(currents), -1)[:, neuron, None]):
            # what a step adds is seen where no threshold is in reach; SpikingJelly 2.0 has no other way
            charged = copy.deepcopy(node)
            charged.v_threshold = OUT_OF_REACH
            charged(current)
            values.append(float(charged.v) / node.v_threshold)
            node(current)
        return np.array(values)


OUT_OF_REACH = 1e30
"""A threshold that no potential meets."""


class ModuleNetwork(TorchNetwork):
    """A user's module in float64.

    Args:
        model: In eval mode.
        names: The populations that its output depends on.
        timesteps: T.
        repeats: Whether it repeats samples over time itself; else it is given (T, N, ...).
        over_time: By which factor what it returns, (N, classes), is its logits' mean over time; None: it returns
            those of each step.
        vectors: Whether a sample is a vector to it, where the program has (F, 1, 1).
        samples_first: Whether it is given (N, T, ...) instead, and transposes that itself.
        layouts: For each population whose values it has in another order than the program: how they lie.
        shapes: For each of these, the shape that the program has them in.
        stepwise: The populations that its code steps one by one.
        levels: For each rounding that its code runs, in order, the population of levels that it is.
    """

    source = "module"

    def __init__(
        self,
        model: nn.Module,
        names: Collection[str],
        *,
        timesteps: int,
        repeats: bool,
        over_time: float | None,
        vectors: bool,
        samples_first: bool = False,
        layouts: Mapping[str, Layout] = MappingProxyType({}),
        shapes: Mapping[str, Shape] = MappingProxyType({}),
        stepwise: Collection[str] = (),
        levels: Sequence[LevelCall | None] = (),
    ) -> None:
        super().__init__(model)
        self.neurons = {name: node for name, node in self.neurons.items() if name in names}
        self.timesteps = timesteps
        self.repeats = repeats
        self.over_time = over_time
        self.vectors = vectors
        self.samples_first = samples_first
        self.layouts = layouts
        self.shapes = shapes
        self.stepwise = stepwise
        self.levels = tuple(each if each is not None and each.name in names else None for each in levels)

    def copy(self) -> ModuleNetwork:
        """Another one like it."""
        return self.of(copy.deepcopy(self.model))

    def of(self, model: nn.Module) -> ModuleNetwork:
        """The same of another module of this class."""
        return ModuleNetwork(
            model,
            {*self.neurons, *(each.name for each in self.levels if each is not None)},
            timesteps=self.timesteps,
            repeats=self.repeats,
            over_time=self.over_time,
            vectors=self.vectors,
            samples_first=self.samples_first,
            layouts=self.layouts,
            shapes=self.shapes,
            stepwise=self.stepwise,
            levels=self.levels,
        )

    def run(self, samples: Float64Array, observe: PopulationObserver) -> Float64Array:
        """What ``forward`` returns of samples, each population's spikes told in the program's order."""

        gathered: dict[str, list[tuple[torch.Tensor, ...]]] = {name: [] for name in self.stepwise}

        def arranged(name: str, *values: torch.Tensor) -> None:
            if name in gathered:
                gathered[name].append(values)
                if len(gathered[name]) < self.timesteps:
                    return
                values = tuple(torch.stack(each) for each in zip(*gathered[name], strict=True))
            if name in self.layouts:
                values = tuple(self.layouts[name].arrange(value, self.shapes[name]) for value in values)
            observe(name, *values)

        if not any(self.levels):
            return super().run(samples, arranged)
        with Roundings(self.levels, self.timesteps, observe):
            return super().run(samples, arranged)

    def potentials(self, name: str, neuron: int, currents: Float64Array) -> Float64Array:
        """See ``TorchNetwork``; of neurons of levels, what they round, clamped."""
        if name in self.neurons:
            return super().potentials(name, neuron, currents)
        return currents.reshape(len(currents), -1)[:, neuron]

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """The logits, (T, N, classes), or (1, N, classes) where the module returns their mean over time.

        Raises:
            InputError: The module repeats samples itself, and these have a frame for each step.
        """
        static = samples.dim() == SAMPLE_AXES + 1
        if self.repeats and not static:
            raise InputError(
                "samples: there is a frame for each step, but the module repeats one image over time itself; give "
                "(N, C, H, W)"
            )
        if self.vectors:
            samples = samples.flatten(-SAMPLE_AXES)
        if not self.repeats:
            samples = samples.expand(self.timesteps, *samples.shape) if static else samples.transpose(0, 1)
            samples = samples.transpose(0, 1) if self.samples_first else samples
        logits: torch.Tensor = self.model(samples.contiguous())
        return logits if self.over_time is None else logits[None] / self.over_time


SAMPLE_AXES = 3
"""(C, H, W)."""


def open_checkpoint(path: Path, *, timesteps: int, image_size: int, chosen: Options | None = None) -> TorchNetwork:
    """A checkpoint's network in float64.

    Args:
        path: The file.
        timesteps: T.
        image_size: Edge of the square input, in pixels.
        chosen: What the user said of the file when it was compiled; None: nothing.

    Raises:
        ResformerError: The file is no checkpoint of a SpikingResformer, or not one for such images.
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
    return TorchNetwork(model, fine_tuned=checkpoint.quantization is not None)
