"""A JSON Schema or the client's tools in, the tokens that may come next out; what cannot guide is a refusal."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from sdk.device.answers.grammar import COMPACT, TEXT_OR_CALL, Grammar, Vocabulary
from sdk.device.server.answering import Ask, Tool
from sdk.device.server.refusal import Refusal
from sdk.errors import SchemaError

__all__ = ["Guide"]


class Guide:
    """What may come next in one answer: a Grammar that refuses in the server's form."""

    def __init__(self, vocabulary: Vocabulary, grammar: Callable[[], str], *, param: str) -> None:
        """Begin.

        Args:
            vocabulary: Of the tokenizer.
            grammar: Makes it as llguidance writes it.
            param: The field of the request that it came from.

        Raises:
            Refusal: The schema asks for what cannot be guided, or can never be fulfilled.
        """
        self._param = param
        with self._refusing():
            self._grammar = Grammar(vocabulary, grammar())

    @classmethod
    def of(cls, ask: Ask, vocabulary: Vocabulary) -> "Guide | None":
        """The guide of a request; None where all is allowed.

        Raises:
            Refusal: As above.
        """
        if ask.tools and ask.tool_choice == "auto" and ask.schema is None:
            return cls(vocabulary, lambda: TEXT_OR_CALL + json.dumps(_call_schema(ask.tools)), param="tools")
        if ask.tools and ask.tool_choice != "auto":
            tools = [tool for tool in ask.tools if ask.tool_choice in ("required", tool.name)]
            return cls(vocabulary, lambda: _of_schema(_call_schema(tools)), param="tools")
        schema = ask.schema
        return None if schema is None else cls(vocabulary, lambda: _of_schema(schema), param="response_format")

    def allowed(self, vocabulary: int) -> NDArray[np.bool_]:
        """Which of so many tokens may come next.

        Raises:
            Refusal: None may: the schema cannot be fulfilled.
        """
        with self._refusing():
            return self._grammar.allowed(vocabulary)

    def take(self, token: int) -> None:
        """Go on with a token that was allowed."""
        self._grammar.take(token)

    @property
    def done(self) -> bool:
        """Whether nothing can follow."""
        return self._grammar.ended

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (SchemaError, ValueError) as cause:
            line = f"the JSON Schema cannot guide an answer: {cause!s:.200}"
            raise Refusal(400, line, code="schema", param=self._param) from cause


def _of_schema(schema: Mapping[str, Any]) -> str:
    made: str = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=COMPACT)
    return made


def _call_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """One object that names a tool and gives its arguments."""
    calls = []
    for tool in tools:
        properties = {"name": {"const": tool.name}, "arguments": dict(tool.parameters)}
        calls.append(
            {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
        )
    return calls[0] if len(calls) == 1 else {"anyOf": calls}
