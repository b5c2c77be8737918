"""Ctrl-C or a polite end from the system in, an answer to "must I stop?" out."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Asked", "stop_when_asked"]


class Asked:
    """Whether the person or the system asked to stop. Until somebody listens, and at the second time, it just stops."""

    def __init__(self) -> None:
        """Nobody has asked, and nobody listens."""
        self._asked = self._heard = False

    def __call__(self) -> bool:
        """Whether anybody asked; from now on somebody listens."""
        self._heard = True
        return self._asked

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self._asked or not self._heard:
            raise KeyboardInterrupt
        self._asked = True


@contextmanager
def stop_when_asked() -> Iterator[Asked]:
    """For the time of a `with` block, SIGINT and SIGTERM ask to stop instead of ending the process anywhere."""
    asked = Asked()
    before = {number: signal.signal(number, asked.hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
