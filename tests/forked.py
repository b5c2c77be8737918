"""A piece of work in, what became of the process that did it out: for kill -9, and for limits that cannot be lifted.

A fork starts at once, where a new interpreter needs seconds to import torch. Torch runs on one thread in tests, so no
lock is held by a thread that the copy does not have.
"""

import os
import signal
import traceback
import warnings
from collections.abc import Callable

import pytest

__all__ = ["KILLED", "end_of", "forked", "kill_myself", "needs_fork", "run_forked"]

KILLED = -int(getattr(signal, "SIGKILL", 9))
"""How a process ends that was killed with -9."""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork; nothing here depends on it")


def kill_myself() -> None:
    """End this process as `kill -9` does: no handler runs, nothing is flushed, no `finally` is reached."""
    os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], object]) -> int:
    """Do `work` in a copy of this process and return its id at once; an exception ends the copy with code 1."""
    with warnings.catch_warnings():  # Later Pythons warn of any second thread, also of one that sleeps.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # The copy must not go on with the tests of its parent.


def end_of(child: int) -> int:
    """Wait for a copy's end: its exit code; below 0 the signal that killed it."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def run_forked(work: Callable[[], object]) -> int:
    """Do `work` in a copy of this process and wait for its end."""
    return end_of(forked(work))
