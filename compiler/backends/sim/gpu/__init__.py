"""What a GPU runs: kernels in Triton, where it is installed; elsewhere ``torch_kernels`` computes every step.

``loops`` holds the kernels, ``kernels`` binds a plan's steps to them, ``trials`` tries each on its own shape, and
``tuning`` chooses their tiles. ``TRITON_INTERPRET=1`` runs them on a CPU's tensors, which is how tests do.
"""
