"""What a chip holds and what its operations cost: packaged descriptions, and users' own."""
