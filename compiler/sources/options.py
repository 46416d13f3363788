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
"""The suffix of files that are read as NIR files; ``NET_SUFFIX`` is that of netx networks, any other of checkpoints."""

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
"""The options that are only for checkpoints, and what the command calls them."""

LAYOUT = ("neuron", "stem_stride", "stem_pool", "feature_rounding")
"""The options of ``FLAGS`` that are only for checkpoints of a SpikingResformer."""

Aim = Literal["cores", Goal]
"""What a program's layout is optimised for: the fewest cores, or a goal by which layouts are compared."""


@dataclass(frozen=True)
class CompileOptions:
    """What a user chooses about a compilation.

    Attributes:
        timesteps: T. None: what the file says, or what a checkpoint's kind of network is trained with.
        image_size: Edge of the square input of a checkpoint's network. None: what the checkpoint says, or what its kind
            of network is trained with. Other files state their own.
        quantization: Widths and scales of weights, and the scale and range of the input.
        synapse_budget: The memory that weights may take, as a share of what they take at 8 bits everywhere. Each layer
            then gets its own width, at most that of ``quantization``, by the loss that is measured on ``calibration``.
            None: one width for all layers.
        calibration: Samples to measure ranges on, as ``check_samples`` takes them, or in files. None: ranges are
            estimated.
        chip: The chip on which the program is placed. None: the program is not placed.
        optimize: What the layout is optimised for: the fewest "cores", the shortest step ("time") or the least "energy"
            of a sample. The cost model predicts time and energy for the activity of the first samples of
            ``calibration``, or for an assumed activity; both need a chip.
        cores_percent: The most cores that a layout for time or energy may take, in percent of the fewest.
        seed: The seed of the random order in which a layout for time or energy is looked for.
        dt: Seconds a step of a network in a NIR file. None: what the file says.
        input_kind: Whether samples are real numbers ("static") or frames of events ("frames"). None: frames for
            SpikingResformers with PLIF neurons, zoo networks with two input channels and netx networks that take
            spikes; what the file says for a NIR file of ours; real numbers for all others.
        reset: How the neurons of a NIR file reset if the file does not say, one of ``ir.neurons.RESETS``. None: as NIR
            defines it.
        spikes_per_step: The most spikes that an IF of a NIR file may fire in a step if its metadata do not say. None:
            one.
        min_v: The smallest potential of those IF neurons that may fire several spikes in a step. None: no limit.
        weights_key: The key of a checkpoint under which its weights are. None: the first of the usual keys.
        neuron: The neuron of all populations of a SpikingResformer's checkpoint. None, here and for the next three: as
            ``build_model`` reads it.
        stem_stride: Stride of the stem's convolution.
        stem_pool: Whether a max-pool follows the stem's convolution.
        feature_rounding: How DSSA's patches are counted if sizes are odd.
        architecture: Settings that no tensor of another family's checkpoint tells, such as ``{"num_heads": 12}``; a
            setting that is left out is as the file says, or as the authors have it.
        mean: What is subtracted from samples: one number, or one a channel. None: nothing. The build keeps ``mean``,
            ``std``, ``resize`` and ``classes``; calibration and whatever runs the build apply them.
        std: What the difference is divided by: one number, or one a channel. None: nothing.
        resize: Whether images of a folder are resized and cropped to the input.
        classes: The names of the classes, class 0 first. None: the names of the calibration folder's subfolders, if
            there is one a class, and otherwise no names.
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
        """``quantization``; if there is a budget and no width was chosen, with the largest width of a budget."""
        chosen = self.quantization
        if self.synapse_budget is None or chosen.weight_bits is not None:
            return chosen
        return replace(chosen, weight_bits=WIDEST)

    @property
    def layout(self) -> dict[str, Any]:
        """The options of ``LAYOUT`` that the user chose, by name: no tensor of a SpikingResformer tells them."""
        chosen = {name: getattr(self, name) for name in LAYOUT}
        return {name: value for name, value in chosen.items() if value is not None}

    @property
    def for_checkpoints(self) -> tuple[str, ...]:
        """The names of the given options that are only for checkpoints."""
        given = {"image_size": self.image_size, "weights_key": self.weights_key, **self.layout}
        names = tuple(name for name, value in given.items() if value is not None)
        return (*names, "architecture") if self.architecture else names
