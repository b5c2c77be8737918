"""Learning from one person, on the device: experiences in, a private adapter out, without a network."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from personalize.errors import PersonalizeError
from personalize.experience import Consent, Experience, Signal
from personalize.home import Home

if TYPE_CHECKING:
    from personalize.sources import (
        from_git,
        from_jsonl,
        from_mbox,
        from_text,
        git_authors,
        mbox_authors,
        require_enough,
    )
    from personalize.store import Forgotten, Record, Store

__all__ = [
    "Consent",
    "Experience",
    "Forgotten",
    "Home",
    "PersonalizeError",
    "Record",
    "Signal",
    "Store",
    "from_git",
    "from_jsonl",
    "from_mbox",
    "from_text",
    "git_authors",
    "mbox_authors",
    "require_enough",
]

_HOMES = dict.fromkeys(("Forgotten", "Record", "Store"), "personalize.store") | dict.fromkeys(
    ("from_git", "from_jsonl", "from_mbox", "from_text", "git_authors", "mbox_authors", "require_enough"),
    "personalize.sources",
)


def __getattr__(name: str) -> Any:
    """Load the store and the readers of text when they are first asked for: `limbeck --help` needs no database."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'personalize' has no attribute {name!r}")
