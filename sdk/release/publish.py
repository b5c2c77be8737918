"""Signed metadata in, a new state on the server's disk out: all of it, or the old state stays.

(1) The clock has not run back since the last publication, and what waits was made for what is published.
(2) Every change has its threshold of signatures; the refusal names those who are missing.
(3) Nothing that stays in force has expired.
(4) Every file that a channel lists is there, with its length and digest.
(5) The online key is the one that root names.
(6) Files are moved first, then channels, targets and snapshot, then root, timestamp.json last; each whole and synced.

Until the last rename devices see the old state. An interrupted publication is done again from the start. Only where it
brings a new root, which devices look for by its number, do they wait for the rest before they take anything.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata

from sdk.errors import ReleaseError, RepositoryError, ThresholdError
from sdk.release.keys import SigningKey
from sdk.release.online import make_online
from sdk.release.repository import Repository
from sdk.release.request import Request, read_request
from sdk.release.roles import OFFLINE, View, signatures
from sdk.release.serve import arriving_files, move_in, put_metadata

__all__ = ["Publication", "gather", "publish"]


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What a publication did, or would do."""

    words: tuple[str, ...]
    """What changes, a line each; empty where only the dates were renewed."""
    versions: dict[str, int]
    """Role to the version that devices see."""
    valid_until: datetime
    """When devices would refuse the timestamp."""


def publish(
    repository: Repository, online: SigningKey, files: Sequence[Path] = (), *, now: datetime, dry: bool = False
) -> Publication:
    """Publish what waits, or renew the dates where nothing waits.

    Args:
        repository: Locked.
        online: Signs snapshot and timestamp.
        files: Copies of the request that came back from managers.
        now: Time of the publication.
        dry: Check everything and write nothing.

    Raises:
        ReleaseError: One of the checks (1) to (5) of this module; what devices see is as it was.
    """
    repository.check_clock(now)
    request = gather(repository, files, dry=dry)
    published = repository.published()
    after: View = request.after if request else published
    if not after:
        raise ReleaseError(f"{repository.folder} has nothing to publish; begin with `limbeck release init`")
    _check_thresholds(request, published)
    _check_expiry(after, now)
    arriving = list(arriving_files(repository, after, published))
    snapshot, timestamp = make_online(repository, online, after, now=now)
    if not dry:
        changed = request.changed if request else {}
        last = {"snapshot": snapshot, **({"root": changed["root"]} if "root" in changed else {})}
        new = {**{role: changed[role] for role in reversed(OFFLINE[1:]) if role in changed}, **last}
        try:
            for source, served in arriving:
                move_in(source, served)
            for role, metadata in new.items():
                put_metadata(repository.metadata / f"{metadata.signed.version}.{role}.json", _in_order(metadata))
            put_metadata(repository.metadata / "timestamp.json", timestamp)
            repository.waiting_file.unlink(missing_ok=True)
            shutil.rmtree(repository.incoming, ignore_errors=True)
        except OSError as cause:
            raise ReleaseError(
                f"cannot write {cause.filename}: {cause.strerror}; devices see the old state, publish again"
            ) from cause
    versions = {role: after[role].signed.version for role in OFFLINE}
    versions |= {"snapshot": snapshot.signed.version, "timestamp": timestamp.signed.version}
    words = tuple(request.words()) if request else ()
    return Publication(words=words, versions=versions, valid_until=timestamp.signed.expires)


def gather(repository: Repository, files: Sequence[Path], *, dry: bool = False) -> Request | None:
    """What waits, with the signatures that copies of it brought back.

    Raises:
        ReleaseError: A copy asks for another change, or nothing waits that it could belong to.
    """
    waiting = repository.waiting()
    for file in files:
        copy = read_request(file)
        if waiting is None:
            raise ReleaseError(
                f"nothing waits for signatures here, so {file} belongs elsewhere or was published already"
            )
        waiting = waiting.merged(copy)
    if waiting and files and not dry:
        repository.change(waiting.changed, dry=False)
    return waiting


def _check_thresholds(request: Request | None, published: View) -> None:
    """Check (2), of what stays as well: keys that leave may have signed it."""
    after, changed = (request.after, request.changed) if request else (published, {})
    roles = [role for role in OFFLINE if role != "root" or role in changed]
    found = [signatures(published, after, role) for role in roles]
    missing = [signed.words() for signed in found if signed.needed]
    if missing:
        raise ThresholdError(f"not published, signatures are missing: {'; '.join(missing)}")


def _check_expiry(after: View, now: datetime) -> None:
    """Check (3)."""
    for role, metadata in after.items():
        if metadata.signed.is_expired(now):
            raise RepositoryError(
                f"{role} expired on {metadata.signed.expires:%Y-%m-%d} and this clock says {now:%Y-%m-%d}; "
                f"set the clock, or renew it with `limbeck release rotate --role {role}`"
            )


def _in_order(metadata: Metadata[Any]) -> Metadata[Any]:
    """The same with its signatures by key, so that the order in which managers signed leaves no trace."""
    return Metadata(metadata.signed, dict(sorted(metadata.signatures.items())))
