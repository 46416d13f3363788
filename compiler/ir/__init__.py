"""The two intermediate representations, their interpreters and their files."""
