"""What a client is told: whole answers and chunks of a stream, as OpenAI's clients read them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Chat", "Choice", "Chunk", "ChunkCall", "ChunkChoice", "Delta", "Health", "Logprobs", "Message", "ModelCard",
    "ModelList", "ToldCall", "ToldFunction", "TokenLogprob", "Top", "Usage", "UsageDetails",
]  # fmt: skip

FinishReason = Literal["stop", "length", "tool_calls"]


class _Told(BaseModel):
    """Written, never read."""

    model_config = ConfigDict(frozen=True)


class ToldFunction(_Told):
    """Which function, and with what."""

    name: str
    arguments: str = Field(description="A JSON object, as text, that fits the function's schema.")


class ToldCall(_Told):
    """A tool that the model asks for."""

    id: str
    type: Literal["function"] = "function"
    function: ToldFunction


class ChunkCall(ToldCall):
    """The same in a stream."""

    index: int = Field(description="Its place among the calls.")


class Top(_Told):
    """A token that could have stood here."""

    token: str
    logprob: float = Field(description="In nats, at least -9999.")
    bytes: list[int]


class TokenLogprob(Top):
    """The token that stands here; the model's own probability, before grammar and temperature."""

    top_logprobs: list[Top]


class Logprobs(_Told):
    """How likely each token was."""

    content: list[TokenLogprob]
    refusal: None = None


class Message(_Told):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToldCall] | None = None


class Choice(_Told):
    """The one answer."""

    index: Literal[0] = 0
    message: Message
    logprobs: Logprobs | None = None
    finish_reason: FinishReason


class UsageDetails(_Told):
    """What of a prompt was known."""

    cached_tokens: int = Field(description="Tokens that were still known from an earlier prompt.")


class Usage(_Told):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: UsageDetails


class Chat(_Told):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Seconds since 1970.")
    model: str
    system_fingerprint: str = Field(description="Engine and base; while it stays, a seed gives the same answer.")
    choices: list[Choice]
    usage: Usage


class Delta(_Told):
    """What is new."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ChunkCall] | None = None


class ChunkChoice(_Told):
    """The next part of the one answer."""

    index: Literal[0] = 0
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class Chunk(_Told):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class ModelCard(_Told):
    """A model that can be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When this server began, in seconds since 1970.")
    owned_by: Literal["limbeck"] = "limbeck"
    description: str = Field(description="What answers: base, version and adapter.")


class ModelList(_Told):
    """The models there are now."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(_Told):
    """The server is up."""

    status: Literal["ok"] = "ok"
