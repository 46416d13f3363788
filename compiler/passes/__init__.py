"""One file a pass; each a pure function."""
