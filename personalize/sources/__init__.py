"""A person's own text in, as a git history, a mailbox, JSON lines or plain text; experiences in time order out."""

from personalize.sources.git import from_git, git_authors
from personalize.sources.jsonl import from_jsonl
from personalize.sources.mbox import from_mbox, mbox_authors
from personalize.sources.records import MIN_RECORDS, require_enough
from personalize.sources.text import from_text

__all__ = [
    "MIN_RECORDS",
    "from_git",
    "from_jsonl",
    "from_mbox",
    "from_text",
    "git_authors",
    "mbox_authors",
    "require_enough",
]
