"""Structure-aware fuzzing of every reader and command: damage, the kinds of files, and processes with limits."""
