"""resformer: a neuromorphic deployment compiler for SpikingResformer."""

__version__ = "0.1.0"
