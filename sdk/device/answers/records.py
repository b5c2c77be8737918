"""What an answer is, and what is told while it is written: plain frozen values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Answer", "Call", "Finish", "Piece", "Step", "Timing", "Usage"]

Finish = Literal["stop", "length", "cancelled", "tool"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One token of an answer and what the model alone, before grammar and temperature, thought of it."""

    token: int
    log_probability: float
    """Of this token, in nats, ≤ 0."""
    top: Sequence[tuple[int, float]] = ()
    """The likeliest tokens at its place with their log-probabilities."""
    entropy: float
    """Of the distribution it was taken from, in nats, ≥ 0."""
    margin: float
    """Log-probability of the likeliest token above that of the second, in nats, ≥ 0."""
    mask_share: float = 1.0
    """Probability that the grammar left allowed, in [0, 1]; 1 without a grammar."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens in and out."""

    prompt_tokens: int
    answer_tokens: int
    cached_tokens: int = 0
    """Tokens of the prompt that were known from an earlier turn and cost nothing."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long it took, in seconds of a clock on the wall; waiting for other answers is in it."""

    first_token_s: float
    """From the question to the first token; to the end where there was none."""
    total_s: float
    tokens_per_second: float
    """After the first token; 0 for fewer than two tokens."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A tool that the model asks for."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer."""

    prompt: str
    """The last user turn: what `feedback` remembers it by."""
    text: str
    value: Any = None
    """The validated object of a guided answer: of the pydantic type, else plain JSON; None without a schema, and where
    the answer ended before it was whole."""
    fits: bool | None = None
    """Whether the text fits its schema, as far as the type's own validators say; None without a schema."""
    finish: Finish
    steps: Sequence[Step]
    calls: Sequence[Call] = ()
    usage: Usage
    timing: Timing
    route: Literal["local", "cloud"] = "local"
    engine: str
    adapter: str | None
    """Name of the adapter that answered; None is the bare base."""

    @property
    def tokens(self) -> list[int]:
        """The answer's token ids."""
        return [step.token for step in self.steps]

    @property
    def log_probabilities(self) -> list[float]:
        """Of each token, in nats."""
        return [step.log_probability for step in self.steps]

    @property
    def confidence(self) -> float:
        """Geometric mean of the tokens' probabilities, in [0, 1]: a raw measure, which the router calibrates."""
        logs = self.log_probabilities
        return math.exp(sum(logs) / len(logs)) if logs else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "answer": self.text,
            "value": self.value.model_dump(mode="json") if hasattr(self.value, "model_dump") else self.value,
            "finish": self.finish,
            "confidence": self.confidence,
            "usage": vars(self.usage),
            "timing": vars(self.timing),
            "route": self.route,
            "engine": self.engine,
            "adapter": self.adapter,
        }


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of an answer under way."""

    text: str
    """Whole characters that came since the last piece; may be empty."""
    steps: Sequence[Step] = ()
    so_far: Any = None
    """Of a guided answer: plain JSON of what is written until here, the last text in it perhaps unfinished."""
    answer: Answer | None = None
    """In the last piece: the whole answer."""
