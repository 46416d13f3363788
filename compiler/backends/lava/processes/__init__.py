"""Lava processes for what stock Lava lacks, each in one file with its ProcessModel.

Lava finds a process's models by looking into the process's module first, then by executing every file of its folder as
a module without a package, hiding any error: hence one file for both, and absolute imports. Axes are ours in reverse,
as Lava's own: an image (C, H, W) travels as (W, H, C), an attention map (heads, n, m) as (m, n, heads). Messages
are int32, but for the spikes of our own model of neurons, a byte each.
"""
