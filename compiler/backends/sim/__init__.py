"""The fast backend: bit-exact with ``resformer.compiler.ir.reference``, on CPU and CUDA."""

from resformer.compiler.backends.sim.backend import SimBackend

__all__ = ["SimBackend"]
