"""Lava processes for the operations that stock Lava lacks, each in one file with its ProcessModel.

Lava searches for a process's models first in the process's module, then by executing every file of its folder as a
module without a package, and it hides any error. For this reason, a process and its model share a file, and all imports
are absolute. Axes are in the reverse of our order, as Lava's own are: an image (C, H, W) travels as (W, H, C), an
attention map (heads, n, m) as (m, n, heads). Messages are int32, except the spikes of our own models of LIF neurons,
which take one byte each.
"""
