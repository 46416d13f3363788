"""What a user chooses about a compilation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy.typing as npt

from resformer.compiler.chips.chip import Chip
from resformer.compiler.files.placement import CORES_PERCENT, Goal
from resformer.compiler.ir.primitives import InputKind
from resformer.compiler.quantize.choose import QuantizationConfig
from resformer.compiler.quantize.precision import WIDEST
from resformer.compiler.samples.files import SampleFiles
from resformer.compiler.samples.preprocessing import Preprocessing, numbers
from resformer.models.layers import NeuronKind
from resformer.models.spikingresformer import Rounding

NIR_SUFFIX = ".nir"
"""How the name of a file ends that is read as a NIR file; at NET_SUFFIX a netx network is, else a checkpoint."""

FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "image_size": "--input-size",
        "weights_key": "--weights-key",
        "neuron": "--neuron",
        "stem_stride": "--stem-stride",
        "stem_pool": "--stem-pool",
        "feature_rounding": "--feature-rounding",
        "architecture": "--architecture",
    }
)
"""The options that mean something for a checkpoint alone, as the command names them."""

LAYOUT = ("neuron", "stem_stride", "stem_pool", "feature_rounding")
"""Those of them that mean something for a SpikingResformer's alone."""

Aim = Literal["cores", Goal]
"""For what a program is laid out: the fewest cores, or a goal by which layouts are compared."""


@dataclass(frozen=True)
class CompileOptions:
    """What a user chooses about a compilation.

    Attributes:
        timesteps: T; None for what the file says, or a checkpoint's kind of network is trained with.
        image_size: Edge of the square input of a checkpoint's network; None for what the checkpoint says, or its kind
            of network is trained with. Other files state their own.
        quantization: Widths and granularity.
        synapse_budget: Of the memory that 8 bits everywhere take, the weights' share: each layer then gets a
            width, up to that of ``quantization``, by what it is measured to lose on ``calibration``. None: one for all.
        calibration: Samples to measure ranges on, as ``check_samples`` takes them or in files; None to estimate the
            ranges.
        chip: Where to place the program; None to leave that out.
        optimize: For what the program is laid out: the fewest "cores", the shortest step ("time") or the least "energy"
            of a sample, as the model of costs predicts them for the activity of the first samples of ``calibration``,
            or for an assumed one. Time and energy need a chip.
        cores_percent: The most cores that a layout for time or energy may take, in percent of the fewest.
        seed: Of the order in which such a layout is looked for.
        dt: Seconds a step of a network in a NIR file; None for what the file says.
        input_kind: Whether samples are real numbers ("static") or frames of events ("frames"); None: frames for
            SpikingResformers with PLIF neurons, networks of the zoo's with two input channels and netx networks that
            are given spikes, what a NIR file of ours says, and real numbers for all else.
        reset: How its neurons reset where the file does not say, one of ``ir.neurons.RESETS``; None: as NIR defines it.
        spikes_per_step: How many spikes a step an IF of such a network may fire whose metadata do not say; None: one.
        min_v: The floor under the potential of those that may fire several; None: none.
        weights_key: Under which key of a checkpoint the weights are; None: the first of the usual ones.
        neuron: Which neuron a checkpoint's populations are; None: as ``build_model`` reads it, and so are the rest.
        stem_stride: Stride of the stem's convolution.
        stem_pool: Whether a max-pool follows it.
        feature_rounding: How DSSA's patches are counted where sizes are odd.
        architecture: What no tensor of another family's checkpoint tells, such as ``{"num_heads": 12}``; what is not
            there is as the file says, or as the authors have it.
        mean: What is subtracted from samples, one number, or one a channel; None: nothing. The build holds this and
            the next three, and whatever runs it heeds them; calibration does too.
        std: What the difference is divided by, likewise.
        resize: Whether images of a folder are resized and cropped to the input.
        classes: The names of the classes, class 0 first; None: those of the calibration folder's own folders, if it has
            one a class, else none.
    """

    timesteps: int | None = None
    image_size: int | None = None
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    synapse_budget: float | None = None
    calibration: npt.NDArray[Any] | SampleFiles | None = None
    chip: Chip | None = None
    optimize: Aim = "cores"
    cores_percent: int = CORES_PERCENT
    seed: int = 0
    dt: float | None = None
    input_kind: InputKind | None = None
    reset: str | None = None
    spikes_per_step: int | None = None
    min_v: float | None = None
    weights_key: str | None = None
    neuron: NeuronKind | None = None
    stem_stride: int | None = None
    stem_pool: bool | None = None
    feature_rounding: Rounding | None = None
    architecture: Mapping[str, Any] = field(default_factory=dict)
    mean: float | Iterable[float] | None = None
    std: float | Iterable[float] | None = None
    resize: bool = False
    classes: Sequence[str] | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to samples: ``resize``, ``mean`` and ``std``."""
        return Preprocessing(self.resize, numbers(self.mean), numbers(self.std))

    @property
    def resolved_quantization(self) -> QuantizationConfig:
        """``quantization``; with a budget and no width chosen, the width that a budget may go up to."""
        chosen = self.quantization
        if self.synapse_budget is None or chosen.weight_bits is not None:
            return chosen
        return replace(chosen, weight_bits=WIDEST)

    @property
    def layout(self) -> dict[str, Any]:
        """What was chosen of that which no tensor of a SpikingResformer tells, beside T and the image size."""
        chosen = {name: getattr(self, name) for name in LAYOUT}
        return {name: value for name, value in chosen.items() if value is not None}

    @property
    def for_checkpoints(self) -> tuple[str, ...]:
        """The options that were given and mean something for a checkpoint alone."""
        given = {"image_size": self.image_size, "weights_key": self.weights_key, **self.layout}
        names = tuple(name for name, value in given.items() if value is not None)
        return (*names, "architecture") if self.architecture else names
