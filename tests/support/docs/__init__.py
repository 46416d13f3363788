"""The documentation's pages, read and run."""
