"""Passes over programs, each in a file of its own."""
