"""A typed Python function in, a tool that the model can call out; a call in, its result as text out.

Rules: arguments are validated by the function's types before it runs. Whatever goes wrong becomes the result, so that
the model can read it. A function that takes too long is no longer waited for; its thread cannot be ended and runs on.
An async function runs in an event loop of its own, which ends when it takes too long.
"""

import asyncio
import inspect
import json
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, PydanticUserError, ValidationError, create_model

from sdk.device.answers.records import Call
from sdk.errors import SessionError

__all__ = ["Approve", "Tool", "ToolLimits", "described"]

Approve = Callable[[Call], bool]
"""Asked before a tool runs; False refuses this call."""


@dataclass(frozen=True, kw_only=True)
class ToolLimits:
    """What tools may take of an answer."""

    rounds: int = 4
    """Calls in one answer; then the model must answer in words."""
    seconds: float = 10.0
    """Longest wait for one call."""
    characters: int = 8_000
    """Longest result that the model is given; the rest is cut, and the model told so."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A function with what the model must know of it."""

    name: str
    description: str
    arguments: type[BaseModel]
    function: Callable[..., Any]

    @classmethod
    def of(cls, function: "Callable[..., Any] | Tool") -> "Tool":
        """The tool of a function, plain or async, whose parameters have types; its docstring's first line describes it.

        Raises:
            SessionError: A parameter has no type, one that JSON cannot give, or no plain name; or it is no function.
        """
        if isinstance(function, Tool):
            return function
        name = getattr(function, "__name__", "")
        if not name.isidentifier():
            raise SessionError(f"tool {function!r:.60} has no name to call it by; write it as a function with `def`")
        try:
            hints = get_type_hints(function, include_extras=True)
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError, NameError) as cause:
            raise SessionError(f"tool {name!r}: its types cannot be read ({cause!s:.80})") from cause
        words = (inspect.getdoc(function) or "").partition("\n")[0]
        return cls(name=name, description=words, arguments=_model(name, hints, parameters), function=function)

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON Schema of its arguments."""
        return self.arguments.model_json_schema()

    def run(self, call: Call, limits: ToolLimits, approve: Approve | None = None) -> str:
        """The result as text; an error is one too, and begins with "error: "."""
        try:
            valid = self.arguments.model_validate(dict(call.arguments))
        except ValidationError as wrong:
            first = wrong.errors(include_url=False)[0]
            return f"error: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        if approve is not None and not approve(call):
            return "error: the person did not allow this call"
        given = {name: getattr(valid, name) for name in type(valid).model_fields}
        return _cut(_in_time(lambda: self._called(given, limits.seconds), limits.seconds), limits.characters)

    def _called(self, given: Mapping[str, Any], seconds: float) -> Any:
        made = self.function(**given)
        return asyncio.run(asyncio.wait_for(made, seconds)) if inspect.iscoroutine(made) else made


def _model(name: str, hints: Mapping[str, Any], parameters: Iterable[inspect.Parameter]) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for parameter in parameters:
        named = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        if parameter.name not in hints or not named or parameter.name.startswith("_"):
            raise SessionError(f"tool {name!r}: parameter {parameter.name!r} needs a type and a plain name")
        empty = parameter.default is inspect.Parameter.empty
        fields[parameter.name] = (hints[parameter.name], ... if empty else parameter.default)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # A parameter may be called as a method of BaseModel is.
            model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
            model.model_json_schema()
    except (PydanticUserError, NameError) as cause:
        why = str(cause).partition("\n")[0]
        raise SessionError(f"tool {name!r}: a parameter has a type that JSON cannot give ({why:.80})") from cause
    return model


def described(tools: Sequence[Tool]) -> str:
    """The system text that tells the model of its tools."""
    lines = [f"{tool.name}: {tool.description} Arguments: {_brief(tool.parameters)}" for tool in tools]
    how = 'To call a tool, answer with {"name":…,"arguments":{…}} and nothing else.'
    return "\n".join(["You can call these tools.", *lines, how])


def _brief(schema: Mapping[str, Any]) -> str:
    return json.dumps(
        {name: part.get("type", "object") for name, part in schema.get("properties", {}).items()}, separators=(",", ":")
    )


def _in_time(work: Callable[[], Any], seconds: float) -> str:
    said: list[str] = []

    def run() -> None:
        try:
            value = work()
            said.append(value if isinstance(value, str) else _as_json(value))
        except BaseException as wrong:  # A tool is the app's; whatever it raises is told to the model, also SystemExit.
            said.append(f"error: {type(wrong).__name__}: {wrong}")

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    worker.join(seconds)
    return said[0] if said else f"error: no result after {seconds:g} seconds"


def _as_json(value: Any) -> str:
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    return json.dumps(value, default=str, ensure_ascii=False)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… (cut: {len(text):,} characters in all)"
