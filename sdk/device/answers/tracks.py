"""A prompt in, a track out that already knows its beginning; and whose turn it is among several answers.

Rules: a track is used by one answer at a time and put back afterwards. What is known of tokens under one adapter is
never used under another. Answers that run at once take turns of one part of a prompt or one token, first come first
served, so a long one holds up a short one by one step and no more.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sdk.device.engines.protocol import Engine, Track

__all__ = ["Tracks", "Turns"]

KEPT = 4  # Tracks kept for later prompts.
KEPT_TOKENS = 8_192  # One full context, about 380 MB at 46 kB a token in float32.


class Turns:
    """A lock that is given in the order in which it was asked for."""

    def __init__(self) -> None:
        """Nobody has it."""
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._held = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Wait for a turn, hold it for the time of a `with` block."""
        with self._lock:
            free, self._held = not self._held, True  # Nobody waits where nobody holds it.
            mine = None if free else threading.Event()
            if mine:
                self._waiting.append(mine)
        if mine:
            mine.wait()
        try:
            yield
        finally:
            with self._lock:
                self._held = bool(self._waiting)
                if self._waiting:
                    self._waiting.popleft().set()


class Tracks:
    """The tracks of one engine that are at rest."""

    def __init__(self, engine: Engine, *, most_tokens: int = KEPT_TOKENS) -> None:
        """None is kept yet; later at most `most_tokens`, of all of them together."""
        self.engine, self._most_tokens = engine, most_tokens
        self._kept: list[Track] = []
        self._lock = threading.Lock()

    def take(self, prompt: Sequence[int], adapter: str | None) -> Track:
        """The track of this adapter that knows most of the prompt's beginning, cut to that; else a new one.

        Its last token is never among what is known: the scores after it are needed.
        """
        with self._lock:
            known = [(shared(track.tokens, prompt), track) for track in self._kept if track.adapter == adapter]
            length, best = max(known, key=lambda each: each[0], default=(0, None))
            if best is not None and length:
                self._kept.remove(best)
        if best is None or not length:
            return self.engine.begin(adapter)
        best.rewind(length)
        return best

    def give_back(self, track: Track) -> None:
        """Keep a track for later prompts, in place of those not used for longest."""
        with self._lock:
            self._kept.append(track)
            while len(self._kept) > KEPT or sum(len(each.tokens) for each in self._kept) > self._most_tokens:
                self._kept.pop(0).close()

    def forget(self, adapter: str | None) -> None:
        """Close what is kept under an adapter that no longer answers."""
        with self._lock:
            for track in [each for each in self._kept if each.adapter == adapter]:
                self._kept.remove(track)
                track.close()


def shared(known: Sequence[int], prompt: Sequence[int]) -> int:
    """Number of tokens that both begin with, less than the length of `prompt`."""
    most = min(len(known), len(prompt) - 1)
    return next((place for place in range(most) if known[place] != prompt[place]), most)
