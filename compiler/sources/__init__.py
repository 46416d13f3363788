"""What is compiled, and what its user chose: each kind of file, and modules, read into a float graph."""
