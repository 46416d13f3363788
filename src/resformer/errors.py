"""Every error that resformer raises on purpose, told apart by what the reader can do about it.

Each message names the node, the value, the limit and the way out. A broken invariant of our own is an
``AssertionError``; a spike mismatch is a report, not an exception.
"""


class ResformerError(Exception):
    """Root of all deliberate errors; the command line prints it as one line and exits with status 1."""

    @property
    def findings(self) -> tuple[str, ...]:
        """What is wrong, a line each: the message, unless an error gathers several."""
        return (str(self),)


class UnsupportedError(ResformerError):
    """The network holds something with no exact lowering: change the network."""


class RangeError(ResformerError):
    """A value leaves the range its format can hold: change scales, bits or the input."""


class CapacityError(ResformerError):
    """The network or the run does not fit: change the target, the batch or the machine.

    Args:
        messages (str): Every violation, one message each.
    """

    @property
    def findings(self) -> tuple[str, ...]:
        """Every violation."""
        return tuple(map(str, self.args))

    def __str__(self) -> str:
        return "; ".join(self.findings)


class BackendMissingError(ResformerError):
    """An optional package is not installed: the message holds the pip line."""


class BackendFailedError(ResformerError):
    """A backend ended before its work did, such as a killed child process."""


class ProcessDiedError(BackendFailedError):
    """One of several processes that share a command's work ended before it was done: the message names it."""


class FileFormatError(ResformerError):
    """A file is not what it should be: absent, truncated, of another format or version, or inconsistent."""


class InputError(ResformerError):
    """Data given for inference does not fit the network: wrong shape, type or values."""


class ResformerWarning(UserWarning):
    """What a reader should know of a network or a run that is no error: from Python, as ``warnings.warn`` has it."""


class SampleWarning(ResformerWarning):
    """What a reader should know of samples that are taken all the same, but may be meant otherwise."""
