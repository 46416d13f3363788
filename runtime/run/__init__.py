"""Inference: what runs, how it is fed and what is left of it."""
