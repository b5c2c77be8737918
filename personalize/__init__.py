"""Learning from one person, on the device: experiences in, a private adapter out, without a network."""

from personalize.errors import PersonalizeError
from personalize.experience import Consent, Experience, Signal
from personalize.home import Home
from personalize.sources import from_git, from_jsonl, from_mbox, from_text, git_authors, mbox_authors, require_enough
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
