"""What a run costs on a chip."""
