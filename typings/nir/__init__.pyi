"""What resformer uses of nir 1.0.8, which ships no types; mypy reads this in its place."""

import io
from pathlib import Path

from nir import ir as ir
from nir.ir import IF as IF
from nir.ir import LI as LI
from nir.ir import LIF as LIF
from nir.ir import Affine as Affine
from nir.ir import AvgPool2d as AvgPool2d
from nir.ir import Conv1d as Conv1d
from nir.ir import Conv2d as Conv2d
from nir.ir import CubaLI as CubaLI
from nir.ir import CubaLIF as CubaLIF
from nir.ir import Delay as Delay
from nir.ir import Flatten as Flatten
from nir.ir import I as I
from nir.ir import Input as Input
from nir.ir import Linear as Linear
from nir.ir import NIRGraph as NIRGraph
from nir.ir import NIRNode as NIRNode
from nir.ir import Output as Output
from nir.ir import Scale as Scale
from nir.ir import SumPool2d as SumPool2d
from nir.ir import Threshold as Threshold
from nir.ir import dict2NIRNode as dict2NIRNode
from nir.ir import str2NIRNode as str2NIRNode

__version__: str
version: str

def read(filename: str | Path, type_check: bool = True) -> NIRGraph: ...
def write(
    filename: str | Path | io.RawIOBase,
    graph: NIRNode,
    compression: str = "gzip",
    compression_opts: int | tuple[int, ...] | None = None,
) -> None: ...
