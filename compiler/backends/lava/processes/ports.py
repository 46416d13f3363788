"""In-ports that avoid copies of messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.core.model.py.ports import IdentityTransformer, PyInPortVectorDense

from resformer.compiler.backends.lava.channels import ReceivePort


class BorrowingInPort(PyInPortVectorDense):  # type: ignore[misc]
    """Lava's dense in-port, but in reused memory: treat a message as read-only, and as lost once the next is received.

    If one sender is connected, a message stays where that sender wrote it, and keeps its type. The messages of several
    senders are summed, in the port's own type or a wider one. Over channels other than ours, or through virtual ports,
    this port does what Lava's in-port does.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._borrows = (
            bool(self.csp_ports)
            and all(isinstance(port, ReceivePort) for port in self.csp_ports)
            and isinstance(self._transformer, IdentityTransformer)
        )
        self._sum: npt.NDArray[Any] | None = None

    def recv(self) -> npt.NDArray[Any]:
        """Receive one message from each sender, and return their sum."""
        if not self._borrows:
            received: npt.NDArray[Any] = super().recv()
            return received
        first, *others = self.csp_ports
        message: npt.NDArray[Any] = first.borrow()
        if not others:
            return message
        if self._sum is None:
            self._sum = np.empty(self._shape, np.result_type(self._d_type, *(port.d_type for port in self.csp_ports)))
        np.copyto(self._sum, message)
        for port in others:
            self._sum += port.borrow()
        return self._sum
