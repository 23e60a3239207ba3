"""A process never outlives the one that watches it, however that one ends.

The kernel sends the signal (prctl(2), PR_SET_PDEATHSIG), so it also reaches a process that hangs.
The setting is lost in a fork: each child makes it anew. Refuses to end anything itself, but for a
child whose parent had died before it could make the setting.
"""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_about_to_fork: list[int] = []


def end_with(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel signal this process when ``parent`` dies. Called first thing in a child.

    The kernel means the thread that forked: fork from one that lasts as long as its process.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before the setting was made
        os.kill(os.getpid(), number)


def end_forks_with_this() -> None:
    """Have every process that is forked from here on, at any depth, end with its own parent."""
    os.register_at_fork(before=_note_parent, after_in_child=_bind)


def _note_parent() -> None:
    _about_to_fork[:] = [os.getpid()]


def _bind() -> None:
    end_with(_about_to_fork[0])
