"""Passes over networks of real numbers, each in a file of its own."""
