"""Checkpoints and modules in, float graphs out."""
