"""Quantization-aware fine-tuning, for ``resformer.quantize.prepare(model, bits=4, calibration=images)``."""

from resformer.compiler.fine_tuning import QuantizedSpikingResformer, prepare

__all__ = ["QuantizedSpikingResformer", "prepare"]
