"""Quantization-aware fine-tuning, for ``resformer.quantize.prepare(model, bits=4, calibration=images)``."""

from resformer.compiler.fine_tuning import QuantizedSpikingResformer as QuantizedSpikingResformer
from resformer.compiler.fine_tuning import prepare as prepare
