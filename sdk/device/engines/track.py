"""What a track refuses and keeps, the same in every engine; what runs the model is given to it as a Memory.

Rules: a refusal leaves the track as it was. A failure of the engine closes it, since what is kept of its tokens may be
half written.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sdk.errors import GenerationError, PromptTooLongError

__all__ = ["KeptTrack", "Memory"]


class Memory(Protocol):
    """What an engine keeps of one sequence: keys and values of the tokens taken so far."""

    def run(self, tokens: list[int], *, taken: int, keep: int) -> NDArray[np.float32]:
        """Run the model over `tokens` after the `taken` ones before; logits (keep, vocab)."""

    def cut(self, length: int, *, taken: int) -> None:
        """Keep the first `length` of `taken` tokens, 0 ≤ length < taken."""


class KeptTrack:
    """A Track over any engine's memory."""

    def __init__(self, memory: Memory, *, adapter: str | None, context_tokens: int, vocabulary: int) -> None:
        """Use Engine.begin."""
        self.adapter = adapter
        self._memory: Memory | None = memory
        self.context_tokens, self.vocabulary = context_tokens, vocabulary
        self._tokens: list[int] = []

    @property
    def tokens(self) -> Sequence[int]:
        """See Track.tokens."""
        return self._tokens

    def extend(self, tokens: Sequence[int], *, keep: int = 1) -> NDArray[np.float32]:
        """See Track.extend; a token or `keep` out of range is a GenerationError and changes nothing."""
        offered, taken = [int(token) for token in tokens], len(self._tokens)
        if not 1 <= keep <= len(offered):
            raise GenerationError(f"keep must be from 1 to the {len(offered)} tokens given, got {keep}")
        if taken + len(offered) > self.context_tokens:
            raise PromptTooLongError(
                prompt_tokens=taken + len(offered), answer_tokens=0, context_tokens=self.context_tokens
            )
        if not 0 <= min(offered) <= max(offered) < self.vocabulary:
            raise GenerationError(f"tokens must be from 0 to {self.vocabulary - 1}, got {min(offered)}–{max(offered)}")
        if self._memory is None:
            raise GenerationError("the track is closed; begin another")
        try:
            logits = self._memory.run(offered, taken=taken, keep=keep)
        except GenerationError:
            self.close()
            raise
        except Exception as cause:  # What the libraries raise has no common root.
            self.close()
            raise GenerationError(f"the engine failed ({cause!s:.200}); begin another track") from cause
        self._tokens.extend(offered)
        return logits

    def rewind(self, length: int) -> None:
        """See Track.rewind."""
        if not 0 <= length <= len(self._tokens):
            raise GenerationError(f"a track of {len(self._tokens)} tokens cannot go back to {length}")
        if self._memory is not None and length < len(self._tokens):
            self._memory.cut(length, taken=len(self._tokens))
        del self._tokens[length:]

    def close(self) -> None:
        """See Track.close."""
        self._memory = None
