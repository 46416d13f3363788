"""The files that resformer keeps on disk: their schemas, readers and writers."""
