"""From a program to neurocores: which neurons there are, how they are cut into tiles, and which core holds each."""
