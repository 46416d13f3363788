"""Whether what runs is still the network that was trained."""
