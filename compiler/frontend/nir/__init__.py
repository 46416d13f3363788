"""NIR files as float graphs."""
