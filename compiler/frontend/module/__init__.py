"""Modules in memory as float graphs."""
