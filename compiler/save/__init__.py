"""Build folders and reports, written from a compilation."""
