"""SpikingResformer in SpikingJelly, state-dict compatible with the authors' code."""
