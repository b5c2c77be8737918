"""A checked schema in, the tokens that may come next out: one grammar engine (llguidance) for all engines."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import llguidance
import llguidance.hf
import llguidance.numpy
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from sdk.device.answers.copying import copies, with_copies
from sdk.device.answers.schema import Schema, plain_schema
from sdk.errors import SchemaError

__all__ = ["Grammar", "Vocabulary", "call_schema"]

COMPACT: Any = {
    "whitespace_flexible": False
}  # One way to write each value: fewer tokens, and no blanks to get lost in.
DATA = ("const", "enum", "default", "examples")  # Keywords whose values are no schemas.
TEXT_OR_CALL = "start: text | call\ntext: /([^{](.|\\n)*)?/\ncall: %json "


class Vocabulary:
    """A tokenizer's tokens as llguidance needs them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Read the tokenizer; takes half a second for 50,000 tokens."""
        self.table = llguidance.hf.from_tokenizer(tokenizer)

    def content(self, token: int) -> bytes:
        """The bytes of a token; they may be half a character."""
        content: bytes = self.table.decode_bytes([token])
        return content


class Grammar:
    """What may come next in one answer: a TokenMask."""

    def __init__(self, vocabulary: Vocabulary, grammar: str) -> None:
        """Begin an answer under a grammar in llguidance's form.

        Raises:
            SchemaError: It asks for what cannot be guided, or can never be fulfilled.
        """
        self._matcher = llguidance.LLMatcher(vocabulary.table, grammar, log_level=0)
        self._bits = llguidance.numpy.allocate_token_bitmask(1, vocabulary.table.vocab_size)
        self._known = vocabulary.table.vocab_size
        self._checked()

    @classmethod
    def of_schema(cls, schema: Schema, vocabulary: Vocabulary, *, copy_from: str = "") -> "Grammar":
        """Guide an answer to JSON of `schema`; strings under "x-copy" are words of `copy_from`.

        Raises:
            SchemaError: It is invalid, unsatisfiable, endless or too large, or a copy is asked of an empty text.
        """
        plain = plain_schema(schema)
        if copies(plain, plain):
            return cls(vocabulary, llguidance.LLMatcher.grammar_from_lark(with_copies(plain, copy_from)))
        try:
            made = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(plain), overrides=COMPACT)
        except ValueError as cause:
            raise SchemaError(f"{cause!s:.200}") from cause
        return cls(vocabulary, made)

    @classmethod
    def of_tools(cls, parameters: Mapping[str, Mapping[str, Any]], vocabulary: Vocabulary) -> "Grammar":
        """Leave free text, or one call of a tool: its name and arguments that fit.

        Args:
            parameters: Name of each tool to the JSON Schema of its arguments.
            vocabulary: Of the tokenizer.
        """
        plain = plain_schema(call_schema(parameters)) | {"x-guidance": COMPACT}
        return cls(vocabulary, llguidance.LLMatcher.grammar_from_lark(TEXT_OR_CALL + json.dumps(plain)))

    def allowed(self, vocabulary: int) -> NDArray[np.bool_]:
        """See TokenMask.

        Raises:
            SchemaError: Nothing can come next: the schema cannot be fulfilled.
        """
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits, 0)
        self._checked()
        bits = np.unpackbits(self._bits[0].view(np.uint8), bitorder="little")[: self._known].astype(bool)
        allowed = np.zeros(vocabulary, bool)  # A model may score tokens that its tokenizer has not.
        allowed[: len(bits)] = bits[:vocabulary]
        if not allowed.any():
            raise SchemaError("nothing can fit it")
        return allowed

    def take(self, token: int) -> None:
        """See TokenMask."""
        self._matcher.consume_token(token)

    @property
    def ended(self) -> bool:
        """See TokenMask."""
        return bool(self._matcher.is_stopped())

    def _checked(self) -> None:
        if self._matcher.is_error():
            lines: Sequence[str] = re.split(r"\n", str(self._matcher.get_error()).strip())
            raise SchemaError(f"{' '.join(part.strip() for part in lines[:4]):.200}")


def call_schema(parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One object that names a tool and gives its arguments; each tool's schema stands under $defs by its name.

    Args:
        parameters: Name of each tool to the JSON Schema of its arguments; its references stay inside that schema.
    """
    calls = []
    for name in parameters:
        properties = {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/{name}"}}
        calls.append(
            {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
        )
    moved = {name: _moved(given, f"#/$defs/{name}") for name, given in parameters.items()}
    return (calls[0] if len(calls) == 1 else {"anyOf": calls}) | {"$defs": moved}


def _moved(value: Any, to: str) -> Any:
    """A schema whose references to its own root lead `to` where it stands now; data in it is left alone."""
    if isinstance(value, list):
        return [_moved(part, to) for part in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: to + part[1:]
        if key == "$ref" and isinstance(part, str) and part.startswith("#")
        else part
        if key in DATA
        else _moved(part, to)
        for key, part in value.items()
    }
