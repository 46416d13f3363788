"""From a checkpoint to a float graph, an integer program and what runs it."""
