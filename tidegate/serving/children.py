"""Child processes that never outlive their parent."""

import ctypes
import signal

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Call in the child, before or after exec: it gets the signal when the thread that started it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, number)
