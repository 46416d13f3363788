"""3-D pools whose windows lie within one image; PyTorch reads (T, N, C, H, W) as volumes of C images each."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from resformer.compiler.frontend.module.layout import plain
from resformer.compiler.frontend.module.pools import averaged_adaptively, averaged_windows, max_pool
from resformer.compiler.frontend.module.values import IMAGES, Axes, Importer, Tracing, Value

REMEDY = "pool the pixels of (T, N, C, H, W) alone, by windows (1, h, w), or flatten(0, 1) and use a pool of images"


def _three(value: object) -> tuple[int, int, int]:
    """The three numbers of an argument that PyTorch takes as one number or three."""
    numbers = (value,) if isinstance(value, int) else tuple(value)  # type: ignore[arg-type]
    return int(numbers[0]), int(numbers[len(numbers) // 2]), int(numbers[-1])


def _of_images(tracing: Tracing, node: fx.Node, x: object, pool: Importer, *arguments: object) -> Value:
    """Apply a pool of images to all steps and samples at once."""
    value = tracing.plain(node, x, *IMAGES, Axes.TIMED, Axes.SAMPLES_FIRST)
    lead = value.lead
    merged = tuple(atom for axis in lead for atom in axis)
    tracing.values[node] = replace(value, layout=plain((merged,), value.shape))
    made = pool(tracing, node, node, *arguments)
    assert isinstance(made, Value)
    return replace(made, layout=plain(lead, made.shape))


def _windows(
    tracing: Tracing, node: fx.Node, kernel: object, stride: object, padding: object
) -> tuple[list[int], list[int], list[int]]:
    """Kernel, stride and padding within an image, each (rows, columns), of a 3-D pool.

    Raises:
        UnsupportedError: Windows reach over several images.
    """
    size, step, around = _three(kernel), _three(stride or kernel), _three(padding)
    if (size[0], step[0], around[0]) != (1, 1, 0):
        raise tracing.refusal(node, f"pools windows {size}, which reach over several images", REMEDY)
    return list(size[1:]), list(step[1:]), list(around[1:])


def max_pool_of_volumes(
    tracing: Tracing,
    node: fx.Node,
    x: object,
    kernel: object,
    stride: object = (),
    padding: object = 0,
    dilation: object = 1,
    ceil_mode: bool = False,
) -> Value:
    """The maximum of each window."""
    windows = _windows(tracing, node, kernel, stride, padding)
    return _of_images(tracing, node, x, max_pool, *windows, list(_three(dilation)[1:]), ceil_mode)


def averaged_windows_of_volumes(
    tracing: Tracing,
    node: fx.Node,
    x: object,
    kernel: object,
    stride: object = (),
    padding: object = 0,
    *more: object,
) -> Value:
    """The mean of each window."""
    windows = _windows(tracing, node, kernel, stride, padding)
    return _of_images(tracing, node, x, averaged_windows, *windows, *more)


def averaged_adaptively_of_volumes(tracing: Tracing, node: fx.Node, x: fx.Node, size: list[int]) -> Value:
    """The mean of each of ``size`` windows, which cover an image."""
    if size[0] != x.meta["val"].shape[-3]:
        raise tracing.refusal(node, f"averages to {tuple(size)}, over several images", REMEDY)
    return _of_images(tracing, node, x, averaged_adaptively, size[1:])
