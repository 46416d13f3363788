"""What is compiled, and what its user chose: checkpoints, NIR files and modules, each read into a float graph."""
