"""What is compiled: a module as it is given, and any source as it was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph
from resformer.compiler.quantize.plan import QuantizationPlan
from resformer.compiler.samples.preprocessing import Preprocessing
from resformer.models.spikingresformer import Architecture
from resformer.models.zoo.recognise import Recognition

if TYPE_CHECKING:
    import torch
    from torch import nn

    from resformer.compiler.frontend.module.importer import Traced


@dataclass(frozen=True, eq=False)
class ModuleInput:
    """A module in memory that is to be compiled.

    Attributes:
        module: A module that ``resformer.compiler.frontend.module.importer`` takes. Its potentials are reset; otherwise
            it is left unchanged.
        example: Samples as the module's ``forward`` takes them; the range of the input is taken from their values.
    """

    module: nn.Module
    example: torch.Tensor


@dataclass(frozen=True, eq=False)
class ModuleSource:
    """A module that was compiled by tracing it: a module in memory, or the network of a zoo checkpoint.

    Attributes:
        name: The class of the module in memory, or the family of the checkpoint's network.
        module: A float64 copy of the module in memory, or the checkpoint's network in float64.
        traced: The graph before all passes, and how the module takes samples.
        example: The example samples, (N, C, H, W) or (N, T, C, H, W), whose size is that of the input; None of a
            checkpoint.
    """

    name: str
    module: nn.Module
    traced: Traced
    example: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Source:
    """What was compiled.

    Attributes:
        path: The checkpoint, the NIR file or the netx network; None of a module in memory.
        architecture: What a SpikingResformer's shapes tell; None of any other source.
        image_size: Width of the input, in pixels, which is its edge if it is square.
        parameters: The number of trained parameters.
        module: The module that was traced; None if none was.
        recognition: What is known of a zoo network; None of any other source.
        plan: The quantization plan that the source itself states: the one by which a checkpoint was fine-tuned, or the
            integers of a netx network. None: the compiler chooses one.
        warnings: What the user should be warned of, a line each.
        notes: What was chosen or ignored in reading the source, a sentence each.
        assumptions: What neither the file nor the user said of a checkpoint's network, a sentence each.
        settings: What no tensor of a checkpoint tells, in the form that the reader of this kind of checkpoint takes.
        patches: L of each stage, the number of patches by which a SpikingResformer scales its attention.
        preprocessing: What is done to samples, as the file and the user's options say together; None: as the options
            say.
    """

    path: Path | None
    architecture: Architecture | None
    image_size: int
    parameters: int
    module: ModuleSource | None = None
    recognition: Recognition | None = None
    plan: QuantizationPlan | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    patches: tuple[int, ...] = ()
    preprocessing: Preprocessing | None = None


Imported: TypeAlias = tuple[Source, Graph[nir.NIRNode]]
"""What was compiled, and its float graph before all passes."""
