"""The table of PyTorch's operations and the functions that import them."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from types import MappingProxyType

from resformer.compiler.frontend.module.borders import copied
from resformer.compiler.frontend.module.gates import at_most_one, both, either, inverted
from resformer.compiler.frontend.module.in_place import in_place, viewed_in_place
from resformer.compiler.frontend.module.levels import levels
from resformer.compiler.frontend.module.pools import added_up, averaged, averaged_adaptively, averaged_windows, max_pool
from resformer.compiler.frontend.module.populations import count_votes, delayed, fire
from resformer.compiler.frontend.module.products import divided, multiplied, named_product, product
from resformer.compiler.frontend.module.recurrence import recurrent_linear, returned, step_ago
from resformer.compiler.frontend.module.sums import added, difference, negative, taken_from
from resformer.compiler.frontend.module.synapses import (
    convolution,
    linear_layer,
    normalised,
    padded_convolution,
)
from resformer.compiler.frontend.module.taps import (
    averaged_adaptively_along,
    averaged_along,
    convolution_along,
    max_pool_along,
    padded_along,
)
from resformer.compiler.frontend.module.values import (
    Importer,
)
from resformer.compiler.frontend.module.views import (
    chunked,
    concatenated,
    dropped,
    item,
    moved,
    narrowed,
    permuted,
    repeated,
    reshaped,
    same,
    selected,
    sliced,
    split,
    stacked,
    transposed,
    turned,
    unbound,
)
from resformer.compiler.frontend.module.volumes import (
    averaged_adaptively_of_volumes,
    averaged_windows_of_volumes,
    max_pool_of_volumes,
)
from resformer.compiler.frontend.module.written import written

OPERATIONS: Mapping[str, Importer] = MappingProxyType(
    {
        "aten.conv2d.default": convolution,
        "aten.linear.default": linear_layer,
        "aten.batch_norm.default": normalised,
        "aten.max_pool2d.default": max_pool,
        "aten.avg_pool2d.default": averaged_windows,
        "aten.adaptive_avg_pool2d.default": averaged_adaptively,
        "aten.max_pool3d.default": max_pool_of_volumes,
        "aten.avg_pool3d.default": averaged_windows_of_volumes,
        "aten.adaptive_avg_pool3d.default": averaged_adaptively_of_volumes,
        "aten.mean.dim": averaged,
        "aten.sum.dim_IntList": added_up,
        "aten.add.Tensor": added,
        "aten.add_.Tensor": in_place(added),
        "aten.sub.Tensor": difference,
        "aten.sub_.Tensor": in_place(difference),
        **dict.fromkeys(("aten.rsub.Scalar", "aten.rsub.Tensor"), taken_from),
        "aten.neg.default": negative,
        **dict.fromkeys(("aten.maximum.default", "aten.max.other", "aten.logical_or.default"), either),
        **dict.fromkeys(("aten.bitwise_or.Tensor", "aten.__or__.Tensor"), either),
        **dict.fromkeys(("aten.minimum.default", "aten.min.other", "aten.logical_and.default"), both),
        **dict.fromkeys(("aten.bitwise_and.Tensor", "aten.__and__.Tensor"), both),
        **dict.fromkeys(("aten.logical_not.default", "aten.bitwise_not.default"), inverted),
        **dict.fromkeys(("aten.clamp.default", "aten.clip.default"), at_most_one),
        "aten.clamp_max.default": lambda tracing, node, x, most: at_most_one(tracing, node, x, None, most),
        "aten.conv2d.padding": padded_convolution,
        "resformer.levels.default": levels,
        "resformer.neurons.default": fire,
        "resformer.written.default": written,
        "resformer.vote.default": count_votes,
        **dict.fromkeys(
            (
                "aten.view.default",
                "aten.reshape.default",
                "aten.flatten.using_ints",
                "aten.unflatten.int",
                "aten.unsqueeze.default",
                "aten.squeeze.default",
                "aten.squeeze.dim",
                "aten.squeeze.dims",
                "aten.view_as.default",
                "aten.reshape_as.default",
                "aten.ravel.default",
            ),
            reshaped,
        ),
        **dict.fromkeys(
            ("aten.unsqueeze_.default", "aten.squeeze_.default", "aten.squeeze_.dim", "aten.squeeze_.dims"),
            viewed_in_place(reshaped),
        ),
        **dict.fromkeys(
            ("aten.transpose_.default", "aten.swapaxes_.default", "aten.swapdims_.default"),
            viewed_in_place(transposed),
        ),
        "aten.t.default": turned,
        "aten.t_.default": viewed_in_place(turned),
        "aten.numpy_T.default": turned,
        **dict.fromkeys(
            ("aten.movedim.int", "aten.movedim.intlist", "aten.moveaxis.int", "aten.moveaxis.intlist"), moved
        ),
        "aten.narrow.default": narrowed,
        "aten.copy_.default": copied,
        "aten.pad.default": padded_along,
        "aten.constant_pad_nd.default": lambda tracing, node, x, sizes, fill=0: padded_along(
            tracing, node, x, sizes, "constant", fill
        ),
        **dict.fromkeys(("aten.cat.default", "aten.concat.default", "aten.concatenate.default"), concatenated),
        **dict.fromkeys(("aten.conv1d.default", "aten.conv1d.padding"), convolution_along),
        "aten.max_pool1d.default": max_pool_along,
        "aten.avg_pool1d.default": averaged_along,
        "aten.adaptive_avg_pool1d.default": averaged_adaptively_along,
        **dict.fromkeys(
            ("aten.transpose.int", "aten.swapaxes.default", "aten.swapdims.default", "aten.mT.default"), transposed
        ),
        "aten.permute.default": permuted,
        "aten.slice.Tensor": sliced,
        "aten.select.int": selected,
        "aten.split.Tensor": split,
        "aten.split.sizes": split,
        "aten.split_with_sizes.default": split,
        "aten.chunk.default": chunked,
        "aten.unbind.int": unbound,
        str(operator.getitem): item,
        "aten.matmul.default": product,
        "aten.bmm.default": product,
        "aten.einsum.default": named_product,
        **dict.fromkeys(("aten.mul.Tensor", "aten.mul.Scalar"), multiplied),
        **dict.fromkeys(("aten.div.Tensor", "aten.div.Scalar"), divided),
        "aten.mul_.Tensor": in_place(multiplied),
        "aten.div_.Tensor": in_place(divided),
        "aten.repeat.default": repeated,
        "aten.expand.default": repeated,
        "aten.expand_as.default": repeated,
        "aten.tile.default": repeated,
        "aten.stack.default": stacked,
        "aten.dropout.default": dropped,
        "resformer.delay.default": delayed,
        "resformer.step_ago.default": step_ago,
        "resformer.recurrent_linear.default": recurrent_linear,
        "resformer.returned.default": returned,
        **dict.fromkeys(
            (
                "aten.to.dtype",
                "aten._to_copy.default",
                "aten.to.other",
                "aten.to.device",
                "aten.to.dtype_layout",
                "aten.clone.default",
                "aten.contiguous.default",
                "aten.detach.default",
                "aten.detach_.default",
                "aten.alias.default",
            ),
            same,
        ),
    }
)
"""The function that imports each operation of PyTorch."""
