"""The version, which the pyproject file reads here, and who must not open the front door for it."""

__version__ = "0.1.0"
