"""Requests and prices in, what they may cost out; and a meter that refuses the request that would pass the limit."""

import threading
from dataclasses import dataclass, field

from sdk.errors import CostError

__all__ = ["Estimate", "Meter", "Price"]

BYTES_A_TOKEN = 3
"""English has about 4 bytes a token in large vocabularies, most other languages fewer; a guess to the safe side."""
TOKENS_A_REQUEST = 16
"""What a chat format adds around a message."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """Of one model, in any one currency."""

    input_per_million: float
    """For a million tokens of prompts."""
    output_per_million: float
    """For a million tokens of answers."""

    def __post_init__(self) -> None:
        """Refuse a negative price.

        Raises:
            ValueError: One is.
        """
        if not (self.input_per_million >= 0 and self.output_per_million >= 0):
            raise ValueError("prices must not be negative")

    def of(self, input_tokens: int, output_tokens: int) -> float:
        """Cost of so many tokens."""
        return (input_tokens * self.input_per_million + output_tokens * self.output_per_million) / 1e6


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will ask for, before it asks."""

    requests: int
    """Answers that are not yet in the cache."""
    cached: int
    """Answers that are, and cost nothing."""
    input_tokens: int
    """About so many: a token for every three bytes, and a few for each request."""
    output_tokens: int
    """At most so many: every answer as long as allowed."""
    cost: float | None
    """Of both; None where nobody said the price."""
    limit: float | None = None
    """What the run may cost; None: anything."""

    def require_affordable(self) -> None:
        """Refuse a run that could pass its limit.

        Raises:
            CostError: It could; nothing was asked.
        """
        if self.limit is None:
            return
        if self.cost is None:
            raise CostError("a limit of cost needs prices; give --input-price and --output-price")
        if self.cost > self.limit:
            raise CostError(
                f"{self.requests} answers may cost {self.cost:.4f}, over the limit of {self.limit:.4f}; "
                "raise --max-cost, lower --max-new-tokens, or ask fewer prompts"
            )


def prompt_tokens(size_bytes: int) -> int:
    """About how many tokens a prompt of so many bytes has, to the safe side."""
    return -(-size_bytes // BYTES_A_TOKEN) + TOKENS_A_REQUEST


@dataclass(kw_only=True)
class Meter:
    """What a run has spent; shared by its threads. A request that was lost counts as a full one: it may be billed."""

    price: Price | None = None
    """None: unknown, nothing is limited."""
    limit: float | None = None
    """Refuse what would pass it."""
    spent: float = 0.0
    """By what the endpoint itself counted, else by estimate."""
    input_tokens: int = 0
    output_tokens: int = 0
    _open: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, input_tokens: int, output_tokens: int) -> None:
        """Set aside what one request may cost.

        Raises:
            CostError: It would pass the limit; nothing is set aside.
        """
        if self.price is None:
            return
        wanted = self.price.of(input_tokens, output_tokens)
        with self._lock:
            if self.limit is not None and self.spent + self._open + wanted > self.limit:
                raise CostError(
                    f"{self.spent:.4f} is spent and the next answer may cost {wanted:.4f}, over the limit of "
                    f"{self.limit:.4f}; raise --max-cost and go on with --resume"
                )
            self._open += wanted

    def close(self, reserved: tuple[int, int], used: tuple[int, int]) -> None:
        """Release what was set aside for (input, output) tokens and count what was used."""
        with self._lock:
            self.input_tokens += used[0]
            self.output_tokens += used[1]
            if self.price is not None:
                self._open -= self.price.of(*reserved)
                self.spent += self.price.of(*used)
