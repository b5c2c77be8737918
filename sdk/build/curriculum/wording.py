"""The files in wording/ in, their sections of words, templates and stories out.

A file is plain text: `[section]` begins a section, every other line is one entry, `#` begins a comment line. `\\n` in
an entry is a line break.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

__all__ = ["entries", "sections", "words"]

FOLDER = Path(__file__).parent / "wording"
BECOMES = " => "


@cache
def sections(name: str) -> Mapping[str, tuple[str, ...]]:
    """The entries of wording/NAME.txt, section by section."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]"):
            found[line[1:-1]] = []
        elif line and not line.startswith("#"):
            found[next(reversed(found))].append(line.replace(r"\n", "\n"))
    return MappingProxyType({section: tuple(lines) for section, lines in found.items()})


def entries(name: str, section: str) -> list[tuple[str, str]]:
    """The entries of a section in two halves, what stands before and after " => "; the second may be empty."""
    halves = (line.partition(BECOMES) for line in sections(name)[section])
    return [(before, after) for before, _, after in halves]


@cache
def words() -> Mapping[str, tuple[str, ...]]:
    """Kind to its words, of the file whose entries hold several each."""
    kinds = sections("words").items()
    return MappingProxyType(
        {kind: tuple(word for line in lines for word in line.rstrip(";").split("; ")) for kind, lines in kinds}
    )
