"""Other spiking vision networks in SpikingJelly, state-dict compatible with their authors' code."""
