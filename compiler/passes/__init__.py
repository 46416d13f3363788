"""The passes over graphs and programs: each is a pure function in a file of its own."""
