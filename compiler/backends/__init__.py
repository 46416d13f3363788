"""What a program can be lowered to."""
