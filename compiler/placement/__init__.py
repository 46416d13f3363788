"""From a program to neurocores: which neurons there are, how they are tiled, and where the tiles lie."""
