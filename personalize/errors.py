"""What can go wrong while learning on the device, as one tree.

PersonalizeError
├── ExperienceError     one thing to remember is not acceptable; nothing was stored
├── StoreError          the experience store cannot be opened, read or written; what was in it is still in it
│   └── SealError       sealed bytes do not open: another key, or changed on disk
├── SourceError         a person's text cannot be taken in; nothing was stored
├── HomeError           the home folder cannot be used; nothing in it was changed
│   └── HomeBusyError   another process is learning in this home; nothing was started
├── AdapterError        an adapter cannot be attached, saved or loaded; the admitted adapter still answers
│   ├── BaseMismatchError   the adapter was learned on another base; nothing was loaded
│   └── ParcelError         an exported adapter cannot be written or opened; nothing was taken in
├── PackError           what public people taught cannot be read; learning begins at the bare base or not at all
├── TrainingError       a night cannot begin or go on; the admitted adapter still answers, what was reserved stays spent
│   └── NightStoppedError   the night was asked to stop; the next one goes on with it, at no new charge
└── ProbeError          the public probes of the base cannot be read; nothing is admitted without them
"""

import unicodedata

MAX_MESSAGE_CHARS = 800  # Two long paths and a sentence; no hostile file may fill the screen.


class PersonalizeError(Exception):
    """Root of this package's errors; its text is always one printable line: what, how much, what to do next."""

    def __init__(self, message: str) -> None:
        # Paths and git's own words end up in messages: no line break or terminal escape may ride along.
        printable = "".join(" " if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char for char in message)
        line = " ".join(printable.split())
        super().__init__(line if len(line) <= MAX_MESSAGE_CHARS else f"{line[: MAX_MESSAGE_CHARS - 1]}…")


class ExperienceError(PersonalizeError):
    """One thing to remember is not acceptable; nothing was stored."""


class StoreError(PersonalizeError):
    """The experience store cannot be opened, read or written; what was in it is still in it."""


class SealError(StoreError):
    """Sealed bytes do not open: they belong to another key or place, or were changed on disk."""


class SourceError(PersonalizeError):
    """A person's text cannot be taken in; nothing was stored."""


class HomeError(PersonalizeError):
    """The home folder cannot be used; nothing in it was changed."""


class HomeBusyError(HomeError):
    """Another process is learning in this home; nothing was started."""


class AdapterError(PersonalizeError):
    """An adapter cannot be attached, saved or loaded; the admitted adapter still answers."""


class BaseMismatchError(AdapterError):
    """The adapter was learned on another base; nothing was loaded."""


class ParcelError(AdapterError):
    """An exported adapter cannot be written or opened; nothing was taken in."""


class PackError(PersonalizeError):
    """What public people taught cannot be read; learning begins at the bare base or not at all."""


class TrainingError(PersonalizeError):
    """A night cannot begin or go on; the admitted adapter still answers, what was reserved stays spent."""


class NightStoppedError(TrainingError):
    """The night was asked to stop; the next one goes on with it, at no new charge."""


class ProbeError(PersonalizeError):
    """The public probes of the base cannot be read; nothing is admitted without them."""
