"""One request as facts in, its answer in pieces out: what the server asks of whoever answers, free of HTTP."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

__all__ = ["Answering", "Ask", "Call", "End", "Model", "Piece", "Token", "Tool"]

Finish = Literal["stop", "length", "tool", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A function of the client; the model may ask for it, the client calls it."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON Schema of its arguments, an object."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request, checked for form but not yet for what the model can do."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    """Turns with role and content; an assistant's may have calls, a tool's the id of its call."""
    most_tokens: int
    """Longest answer; where the context holds less, it ends there."""
    temperature: float
    """0 takes the likeliest token."""
    seed: int | None
    stop: Sequence[str]
    """Texts before which the answer ends."""
    schema: Mapping[str, Any] | None
    """JSON Schema that the answer fits; None is free text."""
    tools: Sequence[Tool]
    tool_choice: str
    """auto, none, required, or the name of the tool that must be called."""
    top: int | None
    """Alternatives to tell at each token, 0 to 20; None tells no probabilities."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """One token of an answer, and how likely it was."""

    content: bytes
    """Its bytes: a token may be half a character."""
    log_probability: float
    """In nats, by the model alone: before grammar and temperature."""
    top: Sequence[tuple[bytes, float]] = ()
    """The likeliest tokens at its place with their log-probabilities."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of an answer."""

    text: str
    """Whole characters; may be empty."""
    tokens: Sequence[Token] = ()


@dataclass(frozen=True, kw_only=True)
class Call:
    """A tool that the model asks for."""

    name: str
    arguments: str
    """A JSON object."""


@dataclass(frozen=True, kw_only=True)
class End:
    """The last of an answer."""

    finish: Finish
    prompt_tokens: int
    answer_tokens: int
    cached_tokens: int = 0
    """Tokens of the prompt that were still known from before."""
    calls: Sequence[Call] = ()


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that can be asked for by its id."""

    id: str
    words: str
    """What answers: base, version and adapter."""


class Answering(Protocol):
    """Whoever answers; called from several threads at once."""

    @property
    def fingerprint(self) -> str:
        """Engine and base: while it stays, the same seed gives the same answer."""

    def models(self) -> Sequence[Model]:
        """The models there are now, the usual one first."""

    def pieces(self, ask: Ask, cancelled: Callable[[], bool]) -> Iterator[Piece | End]:
        """The answer to `ask`: pieces, then one End.

        Args:
            ask: What is wanted.
            cancelled: Asked at every token; once it says yes the answer ends with finish "cancelled".

        Raises:
            SdkError: It cannot be answered; before the first piece where it can be known by then.
            Refusal: The same, in words for a client.
        """
