"""Inference: samples encoded, run through a program, and their results."""
