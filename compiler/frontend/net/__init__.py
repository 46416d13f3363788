"""Imports lava-dl's netx networks (``.net``), whose integers are taken as they are, as float graphs."""
