"""A piece of work in; the same work killed with SIGKILL before and after its n-th system call.

The child asks to be traced (ptrace) and stops once; the parent lets it run from one system call to the next and
kills it at the wanted one. Linux only; elsewhere, or where tracing is forbidden, `traceable` says no.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Tell", "killed_at", "teller", "traceable"]

State = TypeVar("State")
Tell = Callable[[str], None]

_TRACE_ME, _CONTINUE_TO_SYSCALL, _SET_OPTIONS = 0, 24, 0x4200
_KILL_WITH_PARENT = 0x100000


def _ptrace(request: int, process: int, data: int = 0) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    library.ptrace.restype = ctypes.c_long
    library.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    return int(library.ptrace(request, process, None, data))


def traceable() -> bool:
    """Tell whether this system lets a parent trace its child."""
    return sys.platform == "linux" and killed_at(lambda: None, lambda _, tell: tell("ran"), 10**9) == (True, ["ran"])


def killed_at(prepare: Callable[[], State], work: Callable[[State, Tell], None], stop: int) -> tuple[bool, list[str]]:
    """Run `work` in a child and kill it at the `stop`-th stop (each system call has two: before and after).

    Args:
        prepare: Runs in the child before stops are counted.
        work: Gets what `prepare` returned and a function that tells the parent a word; what was told before the kill
            was true.
        stop: Number of stops to let pass.

    Returns:
        Whether the work ended before it was killed, and the words that it told.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        try:
            state = prepare()
            _ptrace(_TRACE_ME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            work(state, teller(writer))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    ended = _follow(child, stop)
    with os.fdopen(reader, "rb") as pipe:
        return ended, pipe.read().decode().split()


def teller(writer: int) -> Tell:
    """Return a function that writes a word to the pipe at once."""

    def tell(word: str) -> None:
        os.write(writer, f"{word}\n".encode())

    return tell


def _follow(child: int, stop: int) -> bool:
    _, status = os.waitpid(child, 0)
    _ptrace(_SET_OPTIONS, child, _KILL_WITH_PARENT)
    for _ in range(stop):
        if _ptrace(_CONTINUE_TO_SYSCALL, child) < 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            return os.WEXITSTATUS(status) == 0
        if os.WIFSIGNALED(status):
            return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False
