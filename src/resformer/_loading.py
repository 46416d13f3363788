"""While one of our commands loads its libraries: Ctrl-C ends it at once, and without Python's traceback."""

import signal
import sys
import threading
from pathlib import Path

COMMANDS = "resformer-"
"""How the names of our commands begin."""


def end_at_interrupt() -> None:
    """Give Ctrl-C the system's own meaning in a process of one of our commands: nothing is begun that is to be tidied.

    The commands give it theirs before they begin. In all other programs nothing is changed.
    """
    ours = Path(sys.argv[0] if sys.argv else "").name.startswith(COMMANDS)
    untouched = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours and untouched and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
