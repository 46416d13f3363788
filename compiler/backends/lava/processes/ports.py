"""In-ports that copy nothing where they need not."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.core.model.py.ports import IdentityTransformer, PyInPortVectorDense

from resformer.compiler.backends.lava.channels import ReceivePort


class BorrowingInPort(PyInPortVectorDense):  # type: ignore[misc]
    """What Lava's dense in-port receives, in memory that is used again: valid until the next is received, read-only.

    Where one sender connects, a message stays where that sender wrote it, in the type in which it came; what several
    send is summed, in the port's own type or a wider one. Over channels other than ours it is Lava's in-port.
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
        """Receive one message from each sender."""
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
