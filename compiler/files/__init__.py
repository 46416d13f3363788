"""What lies on disk, and its readers and writers."""
