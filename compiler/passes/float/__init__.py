"""Passes over networks of real numbers, one a file."""
