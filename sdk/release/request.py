"""A change that waits for signatures, as one file that travels between managers; and that file, read without trust.

It holds the metadata to be signed, what is published now, every root so far, and the change in words. Reading it
checks, before anybody is asked to sign:

(1) it is of this format and not too large;
(2) every root is signed by the one before it, and what is published is signed by those whom the last root names;
(3) each piece of metadata that changes is the next version of the published one;
(4) the words in the file are those that the metadata themselves say.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, Root

from privacy.whole_file import replace_whole
from sdk.catalogue import CHANNELS
from sdk.errors import ReleaseError
from sdk.release.describe import changes
from sdk.release.roles import OFFLINE, Signatures, View, signatures

__all__ = ["Request", "read_request", "write_request"]

FORMAT = "signing_request/1"
MAX_REQUEST_BYTES = 64 * 1024 * 1024  # Channels have at most 5 MB each, roots 0.5 MB; more is no request.


@dataclass(frozen=True, kw_only=True)
class Request:
    """A change and what it changes."""

    before: View
    """What is published, offline roles only; empty for a new repository."""
    changed: View
    """The metadata that change, with the signatures so far."""
    roots: tuple[Metadata[Any], ...] = ()
    """Every published root, from the first on."""

    @property
    def after(self) -> View:
        """The offline roles as they will be."""
        return {**self.before, **self.changed}

    def words(self) -> list[str]:
        """What the change does, a line each."""
        return changes(self.before, self.after)

    def signatures(self) -> list[Signatures]:
        """Who has signed what, in the order of the roles."""
        return [signatures(self.before, self.after, role) for role in OFFLINE if role in self.changed]

    def merged(self, other: "Request") -> "Request":
        """Take over the signatures of another copy of the same request.

        Raises:
            ReleaseError: The other file asks for something else.
        """
        if {role: data.signed_bytes for role, data in self.changed.items()} != {
            role: data.signed_bytes for role, data in other.changed.items()
        }:
            raise ReleaseError("that file asks to sign another change than the one that waits; send it round again")
        for role, metadata in self.changed.items():
            for keyid, signature in other.changed[role].signatures.items():
                metadata.signatures.setdefault(keyid, signature)
        return self


def write_request(file: Path, request: Request) -> None:
    """Write the file that travels, whole or not at all.

    Raises:
        ReleaseError: It cannot be written; an older one stays as it was.
    """
    fields = {
        "format": FORMAT,
        "words": request.words(),
        "changed": {role: metadata.to_dict() for role, metadata in request.changed.items()},
        "before": {role: metadata.to_dict() for role, metadata in request.before.items()},
        "roots": [root.to_dict() for root in request.roots],
    }
    try:
        replace_whole(file, (json.dumps(fields, indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as cause:
        raise ReleaseError(f"cannot write {file}: {cause.strerror}; nothing changed") from cause


def read_request(file: Path) -> Request:
    """Read a request and check it as this module's docstring lists.

    Raises:
        ReleaseError: It cannot be read, or one of the checks failed; the text says which.
    """
    fields = _fields(file)
    try:
        request = Request(
            before=_view(fields["before"]),
            changed=_view(fields["changed"]),
            roots=tuple(Metadata.from_dict(root) for root in fields["roots"]),
        )
        words = fields["words"]
    except (KeyError, TypeError, ValueError, AttributeError) as cause:
        raise ReleaseError(f"{file} is damaged ({cause}); ask for it again") from cause
    check_published(request.before, request.roots, str(file))
    _check_versions(request, file)
    if words != request.words():
        raise ReleaseError(f"the words in {file} are not what its metadata say; sign nothing and ask who changed them")
    return request


def _fields(file: Path) -> dict[str, Any]:
    """Check (1)."""
    try:
        with file.open("rb") as content:
            text = content.read(MAX_REQUEST_BYTES + 1)
        fields = json.loads(text) if len(text) <= MAX_REQUEST_BYTES else None
    except OSError as cause:
        raise ReleaseError(f"signing request {file} cannot be read: {cause.strerror}; check the path") from cause
    except (ValueError, RecursionError) as cause:
        raise ReleaseError(f"{file} is no signing request; name the waiting.json of a repository") from cause
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise ReleaseError(f"{file} is no signing request of format {FORMAT}; name the waiting.json of a repository")
    return fields


def _view(fields: Mapping[str, Any]) -> dict[str, Metadata[Any]]:
    return {role: Metadata.from_dict(fields[role]) for role in OFFLINE if role in fields}


def check_published(before: View, roots: tuple[Metadata[Any], ...], what: str) -> None:
    """Check that `before` is signed by those whom the last of `roots` names, and the roots by one another; check (2).

    Raises:
        ReleaseError: It is not.
    """
    if not before and not roots:
        return
    try:
        _check_roots(roots)
        if set(before) != set(OFFLINE) or before["root"].signed_bytes != roots[-1].signed_bytes:
            raise ReleaseError(f"{what} does not hold all that is published; ask for it again")
        for role in OFFLINE[1:]:
            vouching = before["targets" if role in CHANNELS else "root"].signed
            vouching.verify_delegate(role, before[role].signed_bytes, before[role].signatures)
    except (TufError, ValueError, IndexError) as cause:
        raise ReleaseError(
            f"what {what} calls published is not signed by those who may ({cause}); sign nothing and ask who sent it"
        ) from cause


def _check_roots(roots: tuple[Metadata[Any], ...]) -> None:
    """Each root is signed by its own managers and by those of the one before."""
    if [root.signed.version for root in roots] != list(range(1, len(roots) + 1)):
        raise ValueError("root versions have gaps")
    for number, root in enumerate(roots):
        for vouching in roots[max(0, number - 1) : number + 1]:
            vouching.signed.verify_delegate(Root.type, root.signed_bytes, root.signatures)


def _check_versions(request: Request, file: Path) -> None:
    """Check (3)."""
    if not request.changed:
        raise ReleaseError(f"{file} asks for nothing; ask for it again")
    for role, metadata in request.changed.items():
        expected = request.before[role].signed.version + 1 if request.before else 1
        if metadata.signed.version != expected:
            raise ReleaseError(
                f"{file} asks to sign version {metadata.signed.version} of {role}, but version {expected} is next; "
                "make the change again on what is published now"
            )
