"""A track in, the same track out that looks ahead: what followed these two words before is scored along with them.

An answer often repeats what stands before it: names, a sentence that is only mended, a list. So where the last two
tokens have occurred already, the tokens that followed them then are run in the same step, which costs a fraction of a
step each. Whoever chooses the next token still chooses by its scores; if the choice was guessed, the scores after it
are known already. So no choice depends on a guess, under any sampling and any grammar; only, an engine that rounds
differently in a step of several tokens does so here too.

Source: prompt look-up decoding, github.com/apoorvumang/prompt-lookup-decoding; verification as in arXiv:2211.17192.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sdk.device.engines.protocol import Track

__all__ = ["Ahead"]

MOST_GUESSES = 3  # In one step; docs/log.md has what a guessed token costs and how many are right.


class Ahead:
    """A Track over another one, which nobody else may use."""

    def __init__(self, track: Track, *, context_tokens: int) -> None:
        """Look ahead on `track`, which holds at most so many tokens."""
        self._track, self._context_tokens = track, context_tokens
        self._length = 0  # Tokens taken; the track may hold guesses behind them.
        self._known: list[tuple[int, NDArray[np.float32]]] = []  # Each guess and the scores after it, shape (vocab,).
        self._reach, self._right = MOST_GUESSES, 0  # Guesses of the next step; those of this one that came true.
        self._after: dict[tuple[int, int], int] = {}  # Two tokens to the place behind their last occurrence.
        self._noted = 2  # Every pair that ends before this place stands there.

    @property
    def tokens(self) -> Sequence[int]:
        """See Track.tokens."""
        return self._track.tokens[: self._length]

    @property
    def adapter(self) -> str | None:
        """See Track.adapter."""
        return self._track.adapter

    def extend(self, tokens: Sequence[int], *, keep: int = 1) -> NDArray[np.float32]:
        """See Track.extend."""
        if self._known and len(tokens) == keep == 1 and tokens[0] == self._known[0][0]:
            self._length += 1
            self._right += 1
            return self._known.pop(0)[1][None]
        self._settle()
        guesses = self._guesses(int(tokens[0])) if len(tokens) == keep == 1 else []
        scores = self._track.extend([*tokens, *guesses], keep=keep + len(guesses))
        self._length += len(tokens)
        self._known = list(zip(guesses, scores[keep:], strict=True))
        return scores[:keep]

    def rewind(self, length: int) -> None:
        """See Track.rewind."""
        self._settle()
        self._track.rewind(length)
        self._length = length
        self._after.clear()
        self._noted = 2

    def close(self) -> None:
        """See Track.close."""
        self._known.clear()
        self._track.close()

    def _settle(self) -> None:
        """Take back what was guessed wrong; where little came true, less is guessed next."""
        if len(self._track.tokens) > self._length:
            self._track.rewind(self._length)
            self._reach = min(MOST_GUESSES, self._right + 1)
        elif self._right:
            self._reach = MOST_GUESSES
        self._known, self._right = [], 0

    def _guesses(self, token: int) -> list[int]:
        """What followed the last token and `token` when they last stood together."""
        known = self._track.tokens
        for place in range(self._noted, self._length + 1):
            self._after[known[place - 2], known[place - 1]] = place
        self._noted = max(2, self._length + 1)
        if not self._length:
            return []
        found = self._after.get((known[-1], token))
        room = self._context_tokens - self._length - 1
        if found is None or room < 1:
            return []
        return [*known[found : found + min(self._reach, room)]]
