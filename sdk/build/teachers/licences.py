"""A teacher's licence in, nothing out, or a refusal to ship what it taught.

A student that learned from a model's weights or answers may be a derivative of it under the maker's terms: Gemma's say
so in as many words, for weights and for synthetic data. Training here is the user's own affair; shipping is refused
until the person who ships has read the terms and named them.
"""

from collections.abc import Collection, Iterable

from sdk.errors import LicenceError

__all__ = ["SHIPPABLE", "require_shippable", "together"]

NAMES = ("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "CC0-1.0", "CC-BY-4.0", "Unlicense")
SHIPPABLE = {name.lower(): name for name in NAMES}
"""Licences that let a derivative be passed on under this project's own, with their notice; lower case to SPDX."""


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


def together(licences: Iterable[str]) -> str:
    """All different licences as one, joined by AND in their order; case does not count, the first spelling stays."""
    found: dict[str, str] = {}
    for one in licences:
        found.setdefault(one.strip().lower(), one.strip())
    return " AND ".join(found.values())
