"""A line of adapters in, which of them are releases and whether the person has taught it since out."""

from collections.abc import Collection
from contextlib import suppress

from personalize.errors import AdapterError
from personalize.shelf import Shelf

__all__ = ["first_of", "release_of", "untaught"]


def release_of(shelf: Shelf, adapter: str) -> str | None:
    """Manifest of the release that an adapter is, also carried to another base; None for a person's own."""
    with suppress(AdapterError, KeyError, TypeError):
        label = shelf.label_of(adapter)
        return str(label["release"]["manifest"]) if "night" not in label else None
    return None


def first_of(shelf: Shelf, digests: Collection[str]) -> str | None:
    """The first adapter of a line that is one of these releases."""
    return next((each for each in shelf.history if each and release_of(shelf, each) in digests), None)


def untaught(shelf: Shelf) -> bool:
    """Whether what answers on a line is the bare base or a release as it came."""
    return shelf.in_use is None or release_of(shelf, shelf.in_use) is not None
