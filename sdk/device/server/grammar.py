"""A JSON Schema or the client's tools in, the tokens that may come next out (llguidance)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import llguidance
import llguidance.hf
import llguidance.numpy
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from sdk.device.server.answering import Ask, Tool
from sdk.device.server.refusal import Refusal

__all__ = ["Guide", "Pieces"]

FREE_TEXT_OR_CALL = "start: text | call\ntext: /([^{](.|\\n)*)?/\ncall: %json "


class Pieces:
    """A tokenizer's tokens as bytes, and as llguidance needs them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Read the tokenizer; takes half a second for 50,000 tokens."""
        self.table = llguidance.hf.from_tokenizer(tokenizer)

    def content(self, token: int) -> bytes:
        """What a token stands for; it may be half a character."""
        content: bytes = self.table.decode_bytes([token])
        return content


class Guide:
    """What may come next in one answer."""

    def __init__(self, pieces: Pieces, grammar: str, *, param: str) -> None:
        """Begin.

        Args:
            pieces: Of the tokenizer.
            grammar: As llguidance writes it.
            param: The field of the request that it came from.

        Raises:
            Refusal: The schema asks for what cannot be guided, or can never be fulfilled.
        """
        self._matcher = llguidance.LLMatcher(pieces.table, grammar)
        self._mask = llguidance.numpy.allocate_token_bitmask(1, pieces.table.vocab_size)
        self._vocabulary, self._param = pieces.table.vocab_size, param
        if self._matcher.is_error():
            raise self._refusal(self._matcher.get_error())

    @classmethod
    def of(cls, ask: Ask, pieces: Pieces) -> "Guide | None":
        """The guide of a request; None where all is allowed.

        Raises:
            Refusal: As above.
        """
        if ask.tools and ask.tool_choice == "auto" and ask.schema is None:
            return cls(pieces, FREE_TEXT_OR_CALL + json.dumps(_call_schema(ask.tools)), param="tools")
        if ask.tools and ask.tool_choice != "auto":
            tools = [tool for tool in ask.tools if ask.tool_choice in ("required", tool.name)]
            return cls(pieces, _of_schema(_call_schema(tools)), param="tools")
        return None if ask.schema is None else cls(pieces, _of_schema(ask.schema), param="response_format")

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, shape (vocab,).

        Raises:
            Refusal: None may: the schema cannot be fulfilled.
        """
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._mask, 0)
        bits = np.unpackbits(self._mask[0].view(np.uint8), bitorder="little")[: self._vocabulary].astype(bool)
        if self._matcher.is_error() or not bits.any():
            raise self._refusal("nothing can fit it")
        return bits

    def take(self, token: int) -> None:
        """Go on with a token that was allowed."""
        self._matcher.consume_token(token)

    @property
    def done(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    def _refusal(self, why: str) -> Refusal:
        line = why.strip().splitlines()[0] if why.strip() else "unknown"
        return Refusal(400, f"the JSON Schema cannot guide an answer: {line:.200}", code="schema", param=self._param)


def _of_schema(schema: Mapping[str, Any]) -> str:
    try:  # One way to write each value: fewer tokens, and no blanks to get lost in.
        grammar: str = llguidance.LLMatcher.grammar_from_json_schema(
            json.dumps(schema), overrides={"whitespace_flexible": False}
        )
    except ValueError as cause:
        raise Refusal(400, f"the JSON Schema cannot guide an answer: {cause!s:.200}", code="schema") from cause
    return grammar


def _call_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """One object that names a tool and gives its arguments."""
    calls = []
    for tool in tools:
        properties = {"name": {"const": tool.name}, "arguments": dict(tool.parameters)}
        calls.append(
            {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
        )
    return calls[0] if len(calls) == 1 else {"anyOf": calls}
