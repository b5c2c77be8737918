"""What every engine can do: take tokens, tell the scores of the next one, go back, and wear an adapter.

An engine knows no text, no sampling and no grammar: those are one code above all engines, so that the same scores give
the same answer. Scores are logits, float32, over the model's whole vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from personalize.adapter import Adapter

__all__ = ["Engine", "Track"]


class Track(Protocol):
    """One sequence under way: its tokens, and what the engine keeps of them. Used by one thread at a time."""

    @property
    def tokens(self) -> Sequence[int]:
        """The tokens taken so far."""

    @property
    def adapter(self) -> str | None:
        """Key of the adapter it runs under; fixed for its life, since what is kept of tokens depends on it."""

    def extend(self, tokens: Sequence[int], *, keep: int = 1) -> NDArray[np.float32]:
        """Take more tokens and score what follows.

        Args:
            tokens: At least one; a long prompt is given in parts, so that it can be stopped between them.
            keep: Scores are returned after each of so many last tokens, 1 to len(tokens).

        Returns:
            Logits, shape (keep, vocab), float32.

        Raises:
            PromptTooLongError: More than the context holds: the track stays as it was.
            GenerationError: The engine failed; close the track.
        """

    def rewind(self, length: int) -> None:
        """Forget all tokens after the first `length`, 0 ≤ length ≤ len(tokens)."""

    def close(self) -> None:
        """Give back what it holds; safe twice."""


class Engine(Protocol):
    """A loaded base model."""

    @property
    def name(self) -> str:
        """torch, portable or coreml."""

    @property
    def context_tokens(self) -> int:
        """Most tokens of a track."""

    @property
    def vocabulary(self) -> int:
        """Length of the scores."""

    def wear(self, adapter: Adapter) -> str:
        """Load an adapter beside the base, which is not rebuilt.

        Returns:
            Its key: the digest of its weights; the same adapter twice gives the same key and costs nothing.

        Raises:
            AdapterError: It was made for another base, or the engine cannot carry it, or its scores do not move the
                base's (a silent no-op): nothing was loaded.
        """

    def drop(self, key: str) -> None:
        """Unload an adapter when the last track that wears it is closed; unknown keys are ignored."""

    def begin(self, adapter: str | None = None) -> Track:
        """A new empty track, with an adapter by its key or the base alone; tracks live side by side."""

    def close(self) -> None:
        """Give back the model; safe twice. Open tracks fail from here on."""
