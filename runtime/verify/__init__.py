"""Verification: whether a compiled network is still the network that was trained."""
