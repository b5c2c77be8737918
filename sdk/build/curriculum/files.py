"""Worked examples in, a file of JSON lines out; and back."""

import json
from collections.abc import Iterable
from pathlib import Path

from privacy.whole_file import replace_whole
from sdk.build.curriculum.examples import FORMAT, Example
from sdk.errors import CurriculumError

__all__ = ["read_examples", "write_examples"]


def write_examples(file: Path, examples: Iterable[Example]) -> None:
    """Write one example a line, the file whole or not at all."""
    lines = "".join(json.dumps(example.line(), ensure_ascii=False) + "\n" for example in examples)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_whole(file, lines.encode())


def read_examples(file: Path) -> list[Example]:
    """Read a file of `write_examples`.

    Raises:
        CurriculumError: It is no such file, or of another format version.
    """
    examples = []
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as wrong:
        raise CurriculumError(f"{file} cannot be read: {wrong}") from wrong
    for number, line in enumerate(lines, start=1):
        if line:
            examples.append(_example(line, f"{file}, line {number}"))
    return examples


def _example(line: str, place: str) -> Example:
    try:
        fields = json.loads(line)
        if fields.pop("format") != FORMAT or not all(isinstance(value, str) for value in fields.values()):
            raise ValueError(f"its format is not {FORMAT}")
        return Example(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as wrong:
        raise CurriculumError(
            f"{place} is no example: {wrong}; make the file again with `limbeck build curriculum`"
        ) from wrong
