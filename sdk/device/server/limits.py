"""What a server grants at most: sizes, rates, waiting and time, so that no client can take all of a small machine."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

__all__ = ["Limits", "Rate"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Every bound of one server; memory is at most about `connections` × (`request_bytes` + `header_bytes`)."""

    request_bytes: int = 256 * 1024
    """Longest body. A context of 8,192 tokens is about 40 kB of English, and a schema a few kB."""
    header_bytes: int = 16 * 1024
    """Longest request line with headers."""
    connections: int = 256
    """Open connections; the next ones are told to come back."""
    at_once: int = 2
    """Answers being written at the same time."""
    waiting: int = 64
    """Requests that may wait for their turn; the next ones are told to come back."""
    wait_seconds: float = 60.0
    """Longest wait for a turn."""
    per_minute: int = 600
    """Requests a minute over all clients, on average; as many may come at once after a quiet minute."""
    request_seconds: float = 10.0
    """A request must have arrived whole, headers and body, after so long."""
    answer_seconds: float = 120.0
    """An answer that takes longer ends here, as one that reached its most tokens."""
    answer_tokens: int = 2048
    """Most tokens of an answer, whatever is asked for."""
    idle_seconds: float = 15.0
    """A connection with nothing under way, or a client that reads nothing, is closed after so long."""
    stop_seconds: float = 5.0
    """Answers under way may go on so long after the server was asked to stop."""

    def __post_init__(self) -> None:
        """Refuse bounds that would answer nobody."""
        for each in fields(self):
            value = getattr(self, each.name)
            least = 0 if each.name in ("waiting", "stop_seconds") else 1 if isinstance(value, int) else 1e-3
            if not least <= value < math.inf:
                raise ValueError(f"{each.name} must be a number of at least {least:g}, got {value}")


class Rate:
    """Requests a minute, counted by a bucket that fills steadily."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """A full bucket.

        Args:
            per_minute: How many a minute, and how many at once after a quiet minute.
            clock: Seconds from some start, never back.
        """
        self._size = self._left = float(per_minute)
        self._clock = clock
        self._then = clock()

    def take(self) -> float:
        """Take one: 0 if it was granted, else the seconds until the next one will be."""
        now = self._clock()
        self._left = min(self._size, self._left + (now - self._then) * self._size / 60)
        self._then = now
        if self._left < 1:
            return (1 - self._left) * 60 / self._size
        self._left -= 1
        return 0.0
