"""A pydantic type or a JSON Schema in, the schema that guides an answer out, or a refusal before anything is written.

(1) It is an object of plain JSON, not larger than MAX_BYTES and not deeper than MAX_DEPTH.
(2) Something finite fits it: no reference leads only to itself.
(3) llguidance can make a grammar of it: no unknown type, no contradiction, no address elsewhere.

Check (3) stands in grammar.py. A string under `"x-copy": true` is copied: it can only be a run of words of the input.
An object that names its properties is closed unless it says `additionalProperties`: a small model would go on for ever.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from sdk.errors import AnswerError, SchemaError

__all__ = ["COPY", "Copied", "Schema", "begun_value", "plain_schema", "resolved", "value_of"]

MAX_BYTES = 256 * 1024  # The schema of a large app's actions is 20 KB.
MAX_DEPTH = 64  # Deeper is a mistake or an attack; people nest to 10.
COPY = "x-copy"
ANY: TypeAdapter[Any] = TypeAdapter(Any)

Schema = type[BaseModel] | Mapping[str, Any]

Copied = Annotated[str, Field(min_length=1, json_schema_extra={COPY: True})]
"""A string that is copied from the input word by word; the grammar leaves no other."""


def plain_schema(schema: Schema) -> dict[str, Any]:
    """Checks (1) and (2).

    Raises:
        SchemaError: Nothing was asked of the model.
    """
    given = schema.model_json_schema() if isinstance(schema, type) and issubclass(schema, BaseModel) else schema
    if not isinstance(given, Mapping):
        raise SchemaError(f"a JSON object or a pydantic model is needed, got {type(schema).__name__}")
    try:
        text = json.dumps(given, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as cause:
        raise SchemaError(f"it is no plain JSON ({cause!s:.80})") from cause
    if len(text) > MAX_BYTES:
        raise SchemaError(f"it has {len(text):,} bytes, more than {MAX_BYTES:,}; ask for less at once")
    plain: dict[str, Any] = json.loads(text)
    if _depth(plain) > MAX_DEPTH:
        raise SchemaError(f"it is nested deeper than {MAX_DEPTH}; flatten it")
    finite = _finite_references(plain)
    if not _ends(plain, finite):
        raise SchemaError("nothing finite fits it: a required part leads back to itself; make it optional")
    return plain if any(name == "allOf" for name in _keys(plain)) else dict(_closed(plain))


def resolved(reference: str, root: Mapping[str, Any]) -> Any:
    """What a `$ref` of this schema points to.

    Raises:
        SchemaError: It points elsewhere, or to nothing.
    """
    if reference != "#" and not reference.startswith("#/"):
        raise SchemaError(f"reference {reference!r:.80} leads out of the schema; put what it names under $defs")
    place: Any = root
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(place, Mapping) or name not in place:
            raise SchemaError(f"reference {reference!r:.80} points to nothing")
        place = place[name]
    return place


def value_of(schema: Schema, text: str) -> Any:
    """A whole answer as the value that was asked for: a validated model, else plain JSON.

    Raises:
        AnswerError: It is not whole, or the type's own validators refuse it.
    """
    try:
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            return schema.model_validate_json(text)
        return json.loads(text)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise AnswerError(f"answer does not fit: {place}: {first['msg']}") from wrong
    except (ValueError, RecursionError) as wrong:
        raise AnswerError(f"answer is no JSON: {wrong}") from wrong


def begun_value(text: str) -> Any:
    """The beginning of a JSON value as far as it can be told; None where nothing can."""
    try:
        return ANY.validate_json(text, experimental_allow_partial="trailing-strings")
    except ValidationError:
        return None


def _depth(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, parts), default=0)


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _keys(part)


def _closed(value: Any) -> Any:
    """The schema with its objects closed."""
    if isinstance(value, list):
        return [_closed(part) for part in value]
    if not isinstance(value, dict):
        return value
    closed = {key: part if key in ("const", "enum", "default") else _closed(part) for key, part in value.items()}
    if isinstance(value.get("properties"), dict) and value.get("type") == "object" and "patternProperties" not in value:
        closed.setdefault("additionalProperties", False)
    return closed


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _references(part)


def _finite_references(root: dict[str, Any]) -> set[str]:
    """References that something finite fits: grown from none until nothing is added."""
    all_references, finite = set(_references(root)), set[str]()
    while added := {each for each in all_references - finite if _ends(resolved(each, root), finite)}:
        finite |= added
    return finite


def _ends(schema: Any, finite: set[str]) -> bool:
    """Whether something finite fits `schema`, as far as its references tell."""
    if not isinstance(schema, dict):
        return schema is not False
    needed = list(schema.get("allOf") or [])
    properties = schema.get("properties")
    if schema.get("type") == "object" and isinstance(properties, dict):
        needed += [properties[name] for name in schema.get("required") or [] if name in properties]
    if schema.get("type") == "array" and schema.get("minItems"):
        needed += [*(schema.get("prefixItems") or []), schema.get("items", True)]
    choices = [schema[key] for key in ("anyOf", "oneOf") if isinstance(schema.get(key), list)]
    return (
        schema.get("$ref", "") in finite | {""}
        and all(_ends(part, finite) for part in needed)
        and all(any(_ends(part, finite) for part in choice) for choice in choices)
    )
