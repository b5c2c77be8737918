"""One worked example of a device task."""

import re
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

__all__ = ["FORMAT", "Example", "capital", "template_id"]

SENTENCE_START = re.compile(r"^[a-z]|(?<=[.?!] )[a-z]")

FORMAT = "curriculum/1"


@dataclass(frozen=True, kw_only=True)
class Example:
    """What is asked, what is the right answer, and from which template both come."""

    task: str
    """One of `sdk.tasks.TASKS`."""
    prompt: str
    """The whole user turn, as `sdk.tasks.prompt` makes it."""
    answer: str
    """The whole assistant turn."""
    template: str
    """Group and template: what the held-out set shares no template with."""
    schema: str | None = None
    """Name of the action, or "intent", whose schema the answer follows; None for free text."""
    teacher: str | None = None
    """Who wrote the answer, where it was not this project's templates or SNIPS."""
    teacher_licence: str | None = None
    """Of that teacher; `limbeck build distill` asks for it."""

    def line(self) -> dict[str, Any]:
        """The example as it stands in a file: one JSON object, without the fields that are None."""
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        return {"format": FORMAT, **fields}


def template_id(group: str, template: str) -> str:
    """A template's name: its group and a digest of its text, so that a new template renames no old one."""
    return f"{group}/{sha256(template.encode()).hexdigest()[:8]}"


def capital(text: str) -> str:
    """Begin every sentence with a capital letter, where a slot stood first."""
    return SENTENCE_START.sub(lambda match: match[0].upper(), text)
