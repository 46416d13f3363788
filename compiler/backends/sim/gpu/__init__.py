"""Kernels for a GPU, in Triton where it is installed; without Triton, ``torch_kernels`` computes every step.

``loops`` holds the kernels, ``launch`` their parameters, ``kernels`` binds a plan's steps to them, ``trials`` tries
each on its own shape, ``tuning`` chooses their tiles, and ``batches`` runs an engine batch after batch. Tests set
``TRITON_INTERPRET=1``, which runs the kernels on a CPU's tensors.
"""
