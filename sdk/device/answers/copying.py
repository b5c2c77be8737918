"""A schema with strings under "x-copy" and a text in, a Lark grammar out that leaves only the text's own words there.

Objects, lists, choices and references on the way to a copied string are written as rules here; everything else stays
JSON Schema inside the grammar. A copied value is a run of words and marks of the text, with no blank at either end; its
first letter may be written small, since "on" may begin a sentence as "On".
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from sdk.device.answers.schema import COPY, resolved
from sdk.errors import SchemaError

__all__ = ["copies", "with_copies"]

COMPACT = {"whitespace_flexible": False}
MAX_WORDS = 4_000  # Words and marks of a text to copy from: about a full context.
PASSED = ("anyOf", "oneOf", "$ref", "properties", "items")
IGNORED = {"title", "description", "default", "$defs", "additionalProperties", "required", "minItems", "maxItems"}


def copies(schema: Any, root: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> bool:
    """Whether any string under `schema` is to be copied."""
    if isinstance(schema, list):
        return any(copies(part, root, seen) for part in schema)
    if not isinstance(schema, dict):
        return False
    if schema.get(COPY) is True:
        return True
    reference = schema.get("$ref")
    if (
        isinstance(reference, str)
        and reference not in seen
        and copies(resolved(reference, root), root, seen | {reference})
    ):
        return True
    return any(copies(part, root, seen) for key, part in schema.items() if key != "$defs")


def with_copies(schema: dict[str, Any], text: str) -> str:
    """The grammar.

    Raises:
        SchemaError: The text has no word, or too many, or a copy stands under a keyword that is not handled here.
    """
    words = re.findall(r"\w+|\W", text)
    if not text.strip():
        raise SchemaError("a copied string needs a text to copy from, and it is empty")
    if len(words) > MAX_WORDS:
        raise SchemaError(
            f"a text of {len(words):,} words and marks is too long to copy from; give at most {MAX_WORDS:,}"
        )
    writer = _Rules(schema)
    writer.lines.insert(0, f"start: {writer.rule(schema)}")
    first = [words[0][0].lower() + words[0][1:], *words[1:]]
    for name, chunks in (("AS_WRITTEN", words), ("SMALL_FIRST", first)):
        escaped = [json.dumps(word, ensure_ascii=False)[1:-1] for word in chunks]
        writer.lines.append(f"{name}: %regex {json.dumps({'substring_chunks': escaped})}")
    writer.lines.append(r"COPIED: (AS_WRITTEN | SMALL_FIRST) & /[^ \n](?s:.*[^ \n])?/")
    writer.lines.append('copied: "\\"" COPIED "\\""')
    return "\n".join(writer.lines)


class _Rules:
    """The rules of one grammar, written while they are asked for."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.root, self.lines = root, list[str]()
        self._of_reference: dict[str, str] = {}
        self._count = 0

    def rule(self, schema: Any) -> str:
        """Name of the rule of `schema`."""
        if not copies(schema, self.root):
            return self._put(f"%json {json.dumps(self._whole(schema))}")
        if schema.get(COPY) is True:
            if schema.get("type") != "string":
                raise SchemaError(f'"{COPY}" needs "type": "string"')
            return "copied"
        if isinstance(reference := schema.get("$ref"), str):
            return self._referred(reference)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._put(" | ".join(self.rule(part) for part in schema[key]))
        if schema.get("type") == "object" and set(schema) <= IGNORED | {"type", "properties"}:
            return self._object(schema)
        if schema.get("type") == "array" and set(schema) <= IGNORED | {"type", "items"}:
            return self._array(schema)
        odd = sorted(set(schema) - IGNORED - {"type", *PASSED}) or ["no type"]
        raise SchemaError(f'"{COPY}" stands under {", ".join(odd):.60}, where it is not handled; use objects and lists')

    def _put(self, body: str) -> str:
        self._count += 1
        name = f"r{self._count}"
        self.lines.append(f"{name}: {body}")
        return name

    def _whole(self, schema: Any) -> dict[str, Any]:
        own = dict(schema) if isinstance(schema, dict) else ({} if schema else {"not": {}})
        return {"x-guidance": COMPACT, **own, "$defs": self.root.get("$defs", {})}

    def _referred(self, reference: str) -> str:
        if reference not in self._of_reference:
            self._of_reference[reference] = name = f"d{len(self._of_reference)}"
            self.lines.append(f"{name}: {self.rule(resolved(reference, self.root))}")
        return self._of_reference[reference]

    def _object(self, schema: dict[str, Any]) -> str:
        """Members in the schema's order; `begun` says whether one stands before, so that a comma is due."""
        required, fresh, begun = schema.get("required", []), '""', '""'
        for name, part in reversed(schema.get("properties", {}).items()):
            key = json.dumps(json.dumps(name, ensure_ascii=False) + ":")
            member = f"{key} {self.rule(part)} {self._put(begun)}"
            skipped = ("", "") if name in required else (f" | {self._put(fresh)}", f" | {self._put(begun)}")
            fresh, begun = member + skipped[0], f'"," {member}{skipped[1]}'
        return self._put(f'"{{" {self._put(fresh)} "}}"')

    def _array(self, schema: dict[str, Any]) -> str:
        item = self.rule(schema["items"])
        least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
        more = f'("," {item}){{{max(least - 1, 0)},{"" if most is None else max(int(most) - 1, 0)}}}'
        return self._put(f'"[" ({item} {more}){"" if least else "?"} "]"')
