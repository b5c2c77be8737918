"""A track and a prompt in, tokens out, one at a time: sampling, and what the model thought of each token.

Rules: whoever reads asks for the next token, so nothing is computed that nobody wants. `cancelled` is asked before each
token and each part of a prompt. Log-probabilities are of the scores as the engine gave them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sdk.device.answers.records import Step
from sdk.device.engines.protocol import Track
from sdk.errors import GenerationError

__all__ = ["Decoding", "TokenMask", "decode"]

PART = 64  # Tokens of a prompt between two looks at whether anybody still wants the answer.
MOST_TOP = 20  # As in the servers that apps know.
LEAST = -100.0  # Nats below the likeliest: a chance of 0 in float32, so that 0 times minus infinity is never asked for.


class TokenMask(Protocol):
    """What may come next."""

    def allowed(self, vocabulary: int) -> NDArray[np.bool_]:
        """Which tokens may come next, shape (vocabulary,); at least one."""

    def take(self, token: int) -> None:
        """Go on with a token that was allowed."""

    @property
    def ended(self) -> bool:
        """Whether nothing can follow."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How an answer is chosen."""

    max_new_tokens: int
    """The answer stops here at the latest, ≥ 1."""
    temperature: float = 0.0
    """0 takes the likeliest token; above, the distribution is sharpened (< 1) or flattened (> 1)."""
    seed: int | None = None
    """Makes a sampled answer repeatable."""
    stop: frozenset[int] = frozenset()
    """Tokens that end the answer; they are no step of it."""
    mask: TokenMask | None = None
    top_logprobs: int = 0
    """Likeliest tokens to tell at each step, 0 to 20."""
    measured: bool = True
    """Whether each step says how likely it was; False leaves NaN there, and costs nothing."""

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if self.max_new_tokens < 1:
            raise GenerationError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise GenerationError(f"temperature must be 0 or a positive number, got {self.temperature}")
        if not 0 <= self.top_logprobs <= MOST_TOP:
            raise GenerationError(f"top_logprobs must be from 0 to {MOST_TOP}, got {self.top_logprobs}")


def decode(
    track: Track,
    prompt: Sequence[int],
    request: Decoding,
    cancelled: Callable[[], bool] = lambda: False,
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[Step]:
    """The answer's tokens; the generator returns where it ends.

    Args:
        track: Holds a beginning of `prompt`, never all of it; afterwards also the answer.
        prompt: All tokens before the answer.
        request: How to choose.
        cancelled: Once it says yes the answer ends, within one token.
        turn: Held while the engine computes: whose turn it is among several answers.

    Raises:
        PromptTooLongError, GenerationError: As Track.extend.
    """
    random = np.random.default_rng(None if request.seed is None else request.seed % 2**64)
    waiting = list(prompt[len(track.tokens) :])
    for _ in range(request.max_new_tokens):
        scores = None
        for start in range(0, len(waiting), PART):
            if cancelled():
                return
            with turn():
                scores = track.extend(waiting[start : start + PART])[-1]  # (vocab,)
        if scores is None:
            return
        allowed = request.mask.allowed(len(scores)) if request.mask else None
        token = _chosen(scores, allowed, request.temperature, random)
        if token in request.stop:
            return
        if request.mask:
            request.mask.take(token)
        yield _step(token, scores, allowed, request.top_logprobs) if request.measured else _unmeasured(token)
        if request.mask and request.mask.ended:
            return
        waiting = [token]


def _chosen(
    scores: NDArray[np.float32], allowed: NDArray[np.bool_] | None, temperature: float, random: np.random.Generator
) -> int:
    kept = scores if allowed is None else np.where(allowed, scores, -np.inf)
    if temperature == 0:
        return int(kept.argmax())
    wide = (kept.astype(np.float64) - kept.max()) / temperature  # (vocab,); the likeliest stands at 0
    chances = np.exp(wide)
    return int(random.choice(len(chances), p=chances / chances.sum()))


def _step(token: int, scores: NDArray[np.float32], allowed: NDArray[np.bool_] | None, top: int) -> Step:
    best = _best(scores, max(top, 2))
    below = scores - scores[best[0]]  # (vocab,); the likeliest stands at 0
    chances = np.exp(below)
    total = chances.sum(dtype=np.float64)
    log_total = math.log(total)
    likeliest = [float(below[each]) - log_total for each in best]
    return Step(
        token=token,
        log_probability=float(below[token]) - log_total,
        top=tuple((int(each), value) for each, value in zip(best[:top], likeliest, strict=False)),
        entropy=max(0.0, log_total - float(chances @ np.maximum(below, LEAST)) / total),
        margin=likeliest[0] - likeliest[1],
        mask_share=1.0 if allowed is None else min(1.0, float(chances[allowed].sum()) / total),
    )


def _best(scores: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """The likeliest tokens, the first of equals first; a whole sort of a vocabulary would take longer than a token."""
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    among = np.flatnonzero(scores >= least)
    return among[np.argsort(-scores[among], kind="stable")[:count]]


def _unmeasured(token: int) -> Step:
    return Step(token=token, log_probability=math.nan, entropy=math.nan, margin=math.nan, mask_share=math.nan)
