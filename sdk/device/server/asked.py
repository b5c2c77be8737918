"""What a client may send to /v1/chat/completions: checked JSON in, one `Ask` out. The rest is refused in words."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from sdk.device.server.answering import Ask, Tool
from sdk.device.server.limits import Limits

__all__ = ["ChatRequest", "ask_of"]

MOST_TOKENS = 1_000_000  # Of a number that a client may write; Limits.answer_tokens is what it gets.


class _Part(BaseModel):
    """Strict: what is no request is refused, nothing is guessed."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def _sendable(schema: dict[str, Any]) -> dict[str, Any]:
    json.dumps(schema, ensure_ascii=False, allow_nan=False).encode()  # ValueError: half a character, or no number.
    return schema


Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$", description="Letters, digits, _ and -.")]
Schema = Annotated[dict[str, Any], AfterValidator(_sendable), Field(description="JSON Schema.")]


class TextPart(_Part):
    """A part of a message: text is all that this model reads."""

    type: Literal["text"]
    text: str


Content = Annotated[str | list[TextPart], Field(description="The text, whole or in parts.")]


class SystemMessage(_Part):
    """How to answer."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = Field(default=None, description="Ignored.")


class UserMessage(_Part):
    """What the person says."""

    role: Literal["user"]
    content: Content
    name: str | None = Field(default=None, description="Ignored.")


class CalledFunction(_Part):
    """Which function, and with what."""

    name: Name
    arguments: str = Field(description="A JSON object, as text.")


class ToolCall(_Part):
    """A tool that the model asked for earlier."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(_Part):
    """What the model said earlier."""

    role: Literal["assistant"]
    content: Content | None = None
    refusal: str | None = Field(default=None, description="Ignored.")
    name: str | None = Field(default=None, description="Ignored.")
    tool_calls: list[ToolCall] | None = None
    annotations: list[dict[str, Any]] | None = Field(default=None, description="Ignored.")
    audio: None = None
    function_call: None = None


class ToolMessage(_Part):
    """What a tool returned."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(_Part):
    """A function of the client."""

    name: Name
    description: str | None = None
    parameters: Schema | None = Field(default=None, description="JSON Schema of its arguments. [no arguments]")
    strict: bool | None = Field(default=None, description="Ignored: arguments always fit the schema.")


class FunctionTool(_Part):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class ChosenFunction(_Part):
    """Name of the function that must be called."""

    name: Name


class ChosenTool(_Part):
    """The tool that must be called."""

    type: Literal["function"]
    function: ChosenFunction


class TextFormat(_Part):
    """Free text."""

    type: Literal["text"]


class ObjectFormat(_Part):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(_Part):
    """A JSON Schema with its name."""

    name: Name
    description: str | None = Field(default=None, description="Ignored.")
    schema_: Schema = Field(alias="schema")
    strict: bool | None = Field(default=None, description="Ignored: the answer always fits the schema.")


class SchemaFormat(_Part):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


Format = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]


class StreamOptions(_Part):
    """How a stream ends."""

    include_usage: bool | None = Field(default=None, description="One more chunk with the usage.")
    include_obfuscation: bool | None = Field(default=None, description="Ignored: nothing is padded.")


Stop = Annotated[str, Field(min_length=1, max_length=256)]
Zero = Annotated[float, Field(ge=0, le=0)]
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]


class ChatRequest(_Part):
    """A conversation to be continued. A field that this server does not know is refused, not dropped."""

    model: str = Field(min_length=1, max_length=128, description="An id of /v1/models.")
    messages: list[Message] = Field(min_length=1, max_length=1024)
    max_completion_tokens: Tokens | None = Field(default=None, description="Longest answer in tokens.")
    max_tokens: Tokens | None = Field(default=None, description="The older name of max_completion_tokens.")
    temperature: float | None = Field(
        default=None, ge=0, le=2, allow_inf_nan=False, description="0, the default here, takes the likeliest token."
    )
    top_p: float | None = Field(
        default=None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Only 1, but at temperature 0, where it has no effect.",
    )
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63, description="Makes a sampled answer repeatable.")
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = Field(
        default=None, description="The answer ends before any of these texts."
    )
    n: Literal[1] | None = Field(default=None, description="One answer a request.")
    stream: bool | None = Field(default=None, description="Send the answer in pieces, as server-sent events.")
    stream_options: StreamOptions | None = None
    logprobs: bool | None = Field(default=None, description="Tell how likely each token was.")
    top_logprobs: int | None = Field(default=None, ge=0, le=20, description="Alternatives to tell; needs logprobs.")
    response_format: Format | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=64)] | None = None
    tool_choice: Literal["auto", "none", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = Field(default=None, description="Ignored: at most one call an answer.")
    frequency_penalty: Zero | None = Field(default=None, description="Only 0.")
    presence_penalty: Zero | None = Field(default=None, description="Only 0.")
    user: str | None = Field(default=None, description="Ignored.")
    metadata: dict[str, str] | None = Field(default=None, description="Ignored.")
    store: bool | None = Field(default=None, description="Ignored: nothing is stored.")
    service_tier: str | None = Field(default=None, description="Ignored.")
    safety_identifier: str | None = Field(default=None, description="Ignored.")
    prompt_cache_key: str | None = Field(default=None, description="Ignored: what is known of a prompt is always used.")
    reasoning_effort: str | None = Field(default=None, description="Ignored: the model does not reason aloud.")
    verbosity: str | None = Field(default=None, description="Ignored.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.top_p not in (None, 1) and self.temperature:
            raise ValueError("top_p must be 1 above temperature 0; use temperature alone")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise ValueError("tool_choice needs tools")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("two tools have the same name")
        if isinstance(self.tool_choice, ChosenTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names {self.tool_choice.function.name}, which is not among the tools")
        return self


def ask_of(request: ChatRequest, limits: Limits) -> Ask:
    """The request as facts, free of its wire form."""
    wanted = request.max_completion_tokens or request.max_tokens
    choice = request.tool_choice or "auto"
    return Ask(
        model=request.model,
        messages=[_turn(message) for message in request.messages],
        most_tokens=min(wanted or limits.answer_tokens, limits.answer_tokens),
        temperature=request.temperature or 0.0,
        seed=request.seed,
        stop=[request.stop] if isinstance(request.stop, str) else request.stop or [],
        schema=_schema(request.response_format),
        tools=[_tool(tool.function) for tool in request.tools or ()] if choice != "none" else [],
        tool_choice=choice.function.name if isinstance(choice, ChosenTool) else choice,
        top=(request.top_logprobs or 0) if request.logprobs else None,
    )


def _turn(message: SystemMessage | UserMessage | AssistantMessage | ToolMessage) -> Mapping[str, Any]:
    """Role and text; for tools also what was called, and which call is answered."""
    content = message.content or ""
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    match message:
        case AssistantMessage(tool_calls=[*calls]):
            called = [{"id": each.id, **each.function.model_dump()} for each in calls]
            return {"role": "assistant", "content": text, "calls": called}
        case ToolMessage():
            return {"role": "tool", "content": text, "call": message.tool_call_id}
        case SystemMessage():
            return {"role": "system", "content": text}
    return {"role": message.role, "content": text}


def _tool(function: Function) -> Tool:
    parameters = function.parameters or {"type": "object", "properties": {}, "additionalProperties": False}
    return Tool(name=function.name, description=function.description or "", parameters=parameters)


def _schema(form: TextFormat | ObjectFormat | SchemaFormat | None) -> Mapping[str, Any] | None:
    match form:
        case ObjectFormat():
            return {"type": "object"}
        case SchemaFormat():
            return form.json_schema.schema_
    return None
