"""Imports checkpoints, modules, NIR files and netx files as float graphs."""
