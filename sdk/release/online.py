"""The offline roles in, the snapshot and timestamp that lead devices to them out; signed by the online key."""

from datetime import datetime, timedelta

from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from sdk.errors import SigningKeyError
from sdk.release.keys import SigningKey
from sdk.release.repository import MADE, Repository
from sdk.release.roles import LIFETIME_DAYS, OFFLINE, View, expiry, holders

__all__ = ["make_online"]


def make_online(
    repository: Repository, online: SigningKey, after: View, *, now: datetime, days: int | None = None, ahead: int = 0
) -> tuple[Metadata[Snapshot], Metadata[Timestamp]]:
    """Sign a snapshot and a timestamp that lead to `after`.

    Args:
        repository: Tells the last versions.
        online: Must be the key that root names for both.
        after: The offline roles.
        now: When they are made.
        days: How long both are valid; None: as long as their roles say.
        ahead: Versions to leave out.

    Raises:
        SigningKeyError: It is another key.
    """
    for role in ("snapshot", "timestamp"):
        names = holders(after, role)[1]
        if online.keyid not in names:
            raise SigningKeyError(
                f"the key of {online.name} is not the online key that root names; nothing was published"
            )
    old_snapshot, old_timestamp = repository.snapshot(), repository.timestamp()
    meta = {f"{role}.json": MetaFile(after[role].signed.version) for role in OFFLINE[1:]}
    version = old_snapshot.signed.version if old_snapshot else 0
    keep = (
        days is None
        and not ahead
        and old_snapshot is not None
        and old_snapshot.signed.meta == meta
        and online.keyid in old_snapshot.signatures
        and old_snapshot.signed.expires - now > timedelta(days=LIFETIME_DAYS["snapshot"]) / 2
    )
    if keep and old_snapshot is not None:
        snapshot: Metadata[Snapshot] = old_snapshot
    else:
        snapshot = Metadata(Snapshot(version + 1 + ahead, expires=expiry("snapshot", now, days=days), meta=meta))
        snapshot.sign(online.signer)
    version = old_timestamp.signed.version if old_timestamp else 0
    timestamp: Metadata[Timestamp] = Metadata(
        Timestamp(
            version + 1 + ahead,
            expires=expiry("timestamp", now, days=days),
            snapshot_meta=MetaFile(snapshot.signed.version),
            unrecognized_fields={MADE: now.replace(microsecond=0).isoformat()},
        )
    )
    timestamp.sign(online.signer)
    return snapshot, timestamp
