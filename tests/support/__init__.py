"""Helpers that several test files share; ``pythonpath`` in pyproject.toml lets tests import them."""
