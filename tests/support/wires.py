"""Stand-ins for Lava's ports, for process models that run by themselves."""

import numpy as np


class Wire:
    """Gives one message again and again, and keeps what is sent."""

    def __init__(self, message: np.ndarray | None = None) -> None:
        self.message = message
        self.sent: list[np.ndarray] = []

    def recv(self) -> np.ndarray:
        assert self.message is not None
        return self.message

    def send(self, message: np.ndarray) -> None:
        self.sent.append(message.copy())
