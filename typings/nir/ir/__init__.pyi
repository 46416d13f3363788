"""NIR's nodes and their fields.

Narrower than nir's own annotations where resformer is: arrays of parameters are float64; strides, paddings and
dilations of a Conv2d are pairs; ``v_reset`` and ``w_in`` are arrays, which nir makes of None and of a float.
"""

from abc import ABC
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

_Array: TypeAlias = npt.NDArray[np.float64]
_Pair: TypeAlias = tuple[int, int]
_Types: TypeAlias = dict[str, npt.NDArray[np.int64] | None]
"""Shapes; None where they follow from a node's neighbours."""

__all_ir: list[str]

def str2NIRNode(type: str) -> type[NIRNode]: ...
def dict2NIRNode(data_dict: dict[str, Any]) -> NIRNode: ...

@dataclass(eq=False)
class NIRNode(ABC):
    input_type: _Types = field(init=False, kw_only=True)
    output_type: _Types = field(init=False, kw_only=True)
    metadata: dict[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None: ...
    def to_dict(self) -> dict[str, Any]: ...
    @classmethod
    def from_dict(cls, kwargs: dict[str, Any]) -> Self: ...

@dataclass(eq=False)
class Conv1d(NIRNode):
    input_shape: int | None
    weight: _Array
    stride: int
    padding: int | str
    dilation: int
    groups: int
    bias: _Array

@dataclass(eq=False)
class Conv2d(NIRNode):
    input_shape: tuple[int, ...] | None
    weight: _Array
    stride: _Pair
    padding: _Pair
    dilation: _Pair
    groups: int
    bias: _Array

@dataclass(eq=False)
class Delay(NIRNode):
    delay: _Array

@dataclass(eq=False)
class Flatten(NIRNode):
    input_type: _Types
    start_dim: int = 1
    end_dim: int = -1

@dataclass(eq=False)
class Input(NIRNode):
    input_type: _Types

@dataclass(eq=False)
class Output(NIRNode):
    output_type: _Types

@dataclass(eq=False)
class NIRGraph(NIRNode):
    nodes: dict[str, NIRNode]
    edges: list[tuple[str, str]]

    def __init__(
        self,
        nodes: dict[str, NIRNode],
        edges: list[tuple[str, str]],
        metadata: dict[str, Any] = ...,
        type_check: bool = True,
    ) -> None: ...
    @property
    def inputs(self) -> dict[str, Input]: ...
    @property
    def outputs(self) -> dict[str, Output]: ...
    @staticmethod
    def from_list(*nodes: NIRNode, type_check: bool = True) -> NIRGraph: ...
    def validate_structure(self) -> None: ...
    def check_types(self) -> bool: ...
    def infer_types(self) -> None: ...

@dataclass(eq=False)
class Affine(NIRNode):
    weight: _Array
    bias: _Array

@dataclass(eq=False)
class Linear(NIRNode):
    weight: _Array

@dataclass(eq=False)
class Scale(NIRNode):
    scale: _Array

@dataclass(eq=False)
class CubaLI(NIRNode):
    tau_syn: _Array
    tau_mem: _Array
    r: _Array
    v_leak: _Array
    w_in: _Array = ...

@dataclass(eq=False)
class CubaLIF(NIRNode):
    tau_syn: _Array
    tau_mem: _Array
    r: _Array
    v_leak: _Array
    v_threshold: _Array
    v_reset: _Array = ...
    w_in: _Array = ...

@dataclass(eq=False)
class I(NIRNode):  # noqa: E742
    r: _Array

@dataclass(eq=False)
class IF(NIRNode):
    r: _Array
    v_threshold: _Array
    v_reset: _Array = ...

@dataclass(eq=False)
class LI(NIRNode):
    tau: _Array
    r: _Array
    v_leak: _Array

@dataclass(eq=False)
class LIF(NIRNode):
    tau: _Array
    r: _Array
    v_leak: _Array
    v_threshold: _Array
    v_reset: _Array = ...

@dataclass(eq=False)
class AvgPool2d(NIRNode):
    kernel_size: npt.NDArray[np.int64]
    stride: npt.NDArray[np.int64]
    padding: npt.NDArray[np.int64]

@dataclass(eq=False)
class SumPool2d(NIRNode):
    kernel_size: npt.NDArray[np.int64]
    stride: npt.NDArray[np.int64]
    padding: npt.NDArray[np.int64]

@dataclass(eq=False)
class Threshold(NIRNode):
    threshold: _Array
