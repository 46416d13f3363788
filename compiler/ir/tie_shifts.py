"""Undo the shifts of thresholds and biases with which a quantized NIR file makes ties fire as they do in the program.

Such a file says that its neurons fire above their thresholds. Where the program also fires at a threshold, this
threshold or a bias before it is shifted by less than the smallest difference between potentials. The metadata hold
these shifts and the network's own rule. Without both, compiling the file again would take the shifts for numbers of the
network, and its neurons would fire only above their thresholds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from resformer.compiler.ir.graph import Graph
from resformer.compiler.ir.primitives import NEURONS, as_layer, bias_of, with_weight
from resformer.errors import FileFormatError

TIES = "ties"
"""The key of a node's metadata that holds the two entries below."""
FIRES_AT = "fires_at"
"""The network's own rule; the node's ``fires_at`` in the file differs from it."""
RAISED = "raised"
"""What was added to the node's thresholds or biases, in their own unit."""


def without_tie_shifts(graph: Graph[nir.NIRNode]) -> Graph[nir.NIRNode]:
    """The network that a quantized file was written from, with its own thresholds, biases and rule.

    Raises:
        FileFormatError: The metadata are damaged.
    """
    edit = graph.edit()
    for node in graph:
        if TIES not in node.op.metadata:
            continue
        try:
            edit.set_op(node.name, _restored(node.op, node.op.metadata[TIES]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(
                f"{node.name}: its metadata on ties are damaged ({error}); compile the network again"
            ) from error
    return edit.finish()


def _restored(op: Any, ties: Any) -> nir.NIRNode:
    """One node without its shift."""
    metadata = {key: value for key, value in op.metadata.items() if key != TIES}
    raised = np.asarray(ties[RAISED], dtype=np.float64)
    if isinstance(op, NEURONS):
        made: Any = replace(op, v_threshold=_less(op.v_threshold, raised))
        made.metadata = metadata | {"fires_at": str(ties[FIRES_AT])}
        return made  # type: ignore[no-any-return]
    layer = as_layer(op)
    made = with_weight(layer, weight=layer.weight, bias=_less(bias_of(layer), raised))
    made.metadata = metadata
    return made  # type: ignore[no-any-return]


def _less(values: npt.NDArray[np.float64], raised: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values minus a shift: one number for all, or one for each channel or each value."""
    if raised.size > 1 and raised.ndim != values.ndim:
        raised = raised.reshape(values.shape)
    shifted: npt.NDArray[np.float64] = values - raised
    if shifted.shape != values.shape:
        raise ValueError(f"shifts of shape {raised.shape} for values of shape {values.shape}")
    return shifted
