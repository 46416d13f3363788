"""Programs as networks of Intel Lava processes."""
