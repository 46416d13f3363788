"""resformer: a neuromorphic deployment compiler for SpikingResformer."""

from resformer.compiler.ir import primitives as primitives  # registers our nodes with NIR

__version__ = "0.1.0"
