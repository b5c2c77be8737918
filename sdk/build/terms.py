"""A text's licence in; whether a model may be trained on it and shipped under this project's own licence."""

from collections.abc import Collection

__all__ = ["PUBLIC_DOMAIN", "is_permissive"]

PUBLIC_DOMAIN = "LicenseRef-public-domain"
"""SPDX has no identifier for what nobody owns, as old books and texts of the United States' government."""

PERMISSIVE = frozenset(
    {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "ISC", "MIT", "MIT-0", "NCSA", "PostgreSQL"}
    | {"PSF-2.0", "Python-2.0", "Unlicense", "W3C", "Zlib", "blessing", PUBLIC_DOMAIN, "LicenseRef-WordNet-3.0"}
    | {"CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0", "CC-BY-4.0", "CC-PDDC", "CC0-1.0", "PDDL-1.0", "ODC-By-1.0"}
    | {"CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "OGL-UK-3.0"}
)
"""Licences (SPDX) that ask for their notice at most. Share-alike and copyleft are not among them: whether a model is
derived from its training text is disputed, and nobody should have to settle it to use this project."""


def is_permissive(licence: str, *, accepted: Collection[str] = ()) -> bool:
    """Whether a licence, or one choice of an SPDX expression of OR and AND, is permissive or accepted by name.

    An expression with brackets or exceptions is not taken apart: it has to be accepted as a whole.
    """
    known = {name.casefold() for name in (*PERMISSIVE, *accepted)}
    choices = licence.casefold().split(" or ")
    return licence.casefold() in known or any(
        all(part.strip() in known for part in choice.split(" and ")) for choice in choices
    )
