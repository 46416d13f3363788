"""What other tools read: quantized checkpoints, NIR and ONNX."""
