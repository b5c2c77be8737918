"""A piece of work in, what became of the process that did it out: for kill -9, and for limits that cannot be lifted."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

__all__ = ["KILLED", "kill_myself", "needs_fork", "run_forked"]

KILLED = -signal.SIGKILL if hasattr(signal, "SIGKILL") else -9
"""How a process ends that was killed with -9."""

needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="this system cannot fork; its locks are tested elsewhere"
)


def kill_myself() -> None:
    """End this process as `kill -9` does: no handler runs, nothing is flushed, no `finally` is reached."""
    os.kill(os.getpid(), signal.SIGKILL)


def run_forked(work: Callable[[], object], said: Path | None = None) -> int:
    """Do `work` in a copy of this process and wait for its end.

    A fork starts at once, where a new interpreter needs seconds to import torch. Torch runs on one thread in tests, so
    no lock is held by a thread that the copy does not have.

    Args:
        work: What to do; an exception in it ends the copy with code 1 and is written to stderr.
        said: File for what the work prints.

    Returns:
        Exit code; below 0 the signal that killed it.
    """
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    code = 1  # Whatever happens below, the copy must not go on with the tests of its parent.
    try:
        if said is not None:
            sys.stdout = said.open("w", encoding="utf-8")
        work()
        sys.stdout.flush()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
    raise AssertionError("unreachable")
