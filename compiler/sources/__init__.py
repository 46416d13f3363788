"""The sources of a compilation, each kind of file and modules, read into float graphs, and the user's options."""
