"""A teacher's licence in, nothing out, or a refusal to ship what it taught.

A student that learned from a model's weights or answers may be a derivative of it under the maker's terms: Gemma's say
so in as many words, for weights and for synthetic data. Training here is the user's own affair; shipping is refused
until the person who ships has read the terms and named them.
"""

from collections.abc import Collection

from sdk.errors import LicenceError

__all__ = ["require_shippable"]

SHIPPABLE = frozenset({"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0", "unlicense"})
"""Licences (SPDX, lower case) that let a derivative be passed on under this project's own, with their notice."""


def require_shippable(licence: str, *, accepted: Collection[str] = ()) -> None:
    """Refuse to ship what a teacher of this licence taught.

    Args:
        licence: Of the teacher, as TeacherFacts has it.
        accepted: Licences that the person who ships has accepted by name; case does not count.

    Raises:
        LicenceError: Not known to allow it, and not accepted. `unknown` can be accepted like any other.
    """
    name = licence.strip().lower() or "unknown"
    if name not in SHIPPABLE and name not in {one.strip().lower() for one in accepted}:
        raise LicenceError(licence=name)
