"""What is compiled, as it is given and as it was read."""

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
        module: As ``resformer.compiler.frontend.module.importer`` takes it. It forgets its potentials and is otherwise
            left alone.
        example: Samples as its ``forward`` takes them; the input's range is read off it.
    """

    module: nn.Module
    example: torch.Tensor


@dataclass(frozen=True, eq=False)
class ModuleSource:
    """A module that was compiled by tracing it: one in memory, or the network of a checkpoint of the zoo's.

    Attributes:
        name: Its class, or its family.
        module: A copy of it, in float64.
        traced: The graph before all passes, and how the module takes samples.
        example: The example, (N, C, H, W) or (N, T, C, H, W), which says how large the input is; None of a checkpoint.
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
        architecture: What a SpikingResformer's shapes tell; None of all else.
        image_size: Edge of the input, in pixels.
        parameters: How many numbers were trained.
        module: The module that was traced, if one was.
        recognition: What is known of a network of the zoo's; None of all else.
        plan: By which a checkpoint was fine-tuned, and is quantized; None of others.
        warnings: What the user should know of it, a line each.
        notes: What was chosen or ignored in reading it, a sentence each.
        assumptions: What neither the file nor the user said of a checkpoint's network, a sentence each.
        settings: What no tensor of a checkpoint tells, as its kind's reader of checkpoints takes it.
        patches: L of each stage, by which a checkpoint's network scales its attention.
        preprocessing: What is done to samples as the file says and the user chose; None: as the user chose.
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
