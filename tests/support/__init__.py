"""What several test files build their networks with; ``pythonpath`` in pyproject.toml lets them import it."""
