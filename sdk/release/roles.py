"""Keys and thresholds in, unsigned TUF metadata out; metadata in, who has signed them and who is missing out.

Root says who may sign what, targets delegates to the channels, a channel lists its files. These are signed on the
managers' own machines. Snapshot and timestamp are signed where publishing runs, by the online key, which can therefore
neither name a file nor a key. Nothing here reads or writes a disk.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tuf.api.metadata import DelegatedRole, Delegations, Key, Metadata, Role, Root, Targets

from sdk.catalogue import CHANNELS
from sdk.errors import ReleaseError
from sdk.release.keys import name_of

__all__ = ["LIFETIME_DAYS", "OFFLINE", "Signatures", "View", "expiry", "first_view", "holders", "renewed", "signatures"]

View = Mapping[str, Metadata[Any]]
"""Role name to metadata: what a device that has loaded everything trusts, or would."""

OFFLINE = ("root", "targets", *CHANNELS)
"""Roles that managers sign, each after the one that vouches for it."""

LIFETIME_DAYS = {
    "root": 365,
    "targets": 365,
    "stable": 90,
    "testing": 90,
    "adapters": 90,
    "snapshot": 7,
    "timestamp": 1,
}
"""How long metadata stay valid. A device that is shown older ones refuses them, so this bounds a freeze."""


@dataclass(frozen=True, kw_only=True)
class Signatures:
    """Who has signed one piece of metadata, and who could still."""

    role: str
    """What they sign."""
    signed: tuple[str, ...]
    """Names of those whose signature is there and verifies."""
    open: tuple[str, ...]
    """Names of those who may sign and have not."""
    needed: int
    """Further signatures that are needed; 0: enough. For a new root both the old and the new keys count."""

    def words(self) -> str:
        """One line for a person."""
        if not self.needed:
            return f"{self.role}: signed by {_and(self.signed)}"
        have = f"signed by {_and(self.signed)}; " if self.signed else "nobody has signed; "
        return f"{self.role}: {have}{self.needed} more needed from {_and(self.open, 'or')}"


def expiry(role: str, now: datetime, *, days: int | None = None) -> datetime:
    """When metadata that are made now end.

    What managers sign ends at a midnight, so that the same change on the same day is the same byte for byte.
    """
    until = now.astimezone(UTC).replace(microsecond=0) + timedelta(days=LIFETIME_DAYS[role] if days is None else days)
    return until.replace(hour=0, minute=0, second=0) if role in OFFLINE else until


def first_view(
    root: Sequence[Key], targets: Sequence[Key], online: Key, *, thresholds: Mapping[str, int], now: datetime
) -> dict[str, Metadata[Any]]:
    """Return the first, unsigned metadata of a repository.

    Args:
        root: Who may change keys.
        targets: Who may release, in every channel.
        online: Signs snapshot and timestamp.
        thresholds: Signatures needed for `root`, `targets` and each channel.
        now: Time of the ceremony.

    Raises:
        ReleaseError: Too few keys for a threshold, a key or a name twice, or an online key that could release.
    """
    _check_people(root, targets, online)
    _check_threshold("root", root, thresholds["root"])
    first = Root(expires=expiry("root", now), consistent_snapshot=True)
    for role, keys in (("root", root), ("targets", targets), ("snapshot", (online,)), ("timestamp", (online,))):
        for key in keys:
            first.add_key(key, role)
        first.roles[role].threshold = thresholds.get(role, 1)
    delegated = {}
    for channel in CHANNELS:
        _check_threshold(channel, targets, thresholds[channel])
        delegated[channel] = DelegatedRole(
            channel, [key.keyid for key in targets], thresholds[channel], terminating=True, paths=[f"{channel}/*/*"]
        )
    _check_threshold("targets", targets, thresholds["targets"])
    top = Targets(expires=expiry("targets", now))
    top.delegations = Delegations({key.keyid: key for key in targets}, delegated)
    channels = {channel: Metadata(Targets(expires=expiry(channel, now))) for channel in CHANNELS}
    return {"root": Metadata(first), "targets": Metadata(top), **channels}


def renewed(metadata: Metadata[Any], role: str, now: datetime) -> Metadata[Any]:
    """The next version of some metadata with the same content, a new expiry and no signature."""
    new = copy.deepcopy(metadata)
    new.signed.version += 1
    new.signed.expires = expiry(role, now)
    new.signatures.clear()
    return new


def holders(view: View, role: str) -> tuple[Role, dict[str, Key]]:
    """The role's threshold and the keys that may sign it, as the one that vouches for it says."""
    vouching = view["targets" if role in CHANNELS else "root"].signed
    given = vouching.get_delegated_role(role)
    return given, {keyid: vouching.get_key(keyid) for keyid in given.keyids}


def signatures(before: View, after: View, role: str) -> Signatures:
    """Who has signed `after[role]` and who is missing; a new root needs the old root's managers and its own."""
    metadata = after[role]
    payload = metadata.signed_bytes
    if role == "root":
        previous = before["root"].signed if "root" in before else None
        both = metadata.signed.get_root_verification_result(previous, payload, metadata.signatures)
        signed, unsigned = both.signed, both.unsigned
        needed = max(both.first.missing, both.second.missing)
        short = [result for result in (both.first, both.second) if result.missing]
        useful = {keyid: key for result in short for keyid, key in result.unsigned.items()}
    else:
        vouching = after["targets" if role in CHANNELS else "root"].signed
        result = vouching.get_verification_result(role, payload, metadata.signatures)
        signed, unsigned, needed = result.signed, result.unsigned, result.missing
        useful = unsigned
    return Signatures(
        role=role,
        signed=tuple(sorted(map(name_of, signed.values()))),
        open=tuple(sorted(map(name_of, (useful if needed else unsigned).values()))),
        needed=needed,
    )


def _check_people(root: Sequence[Key], targets: Sequence[Key], online: Key) -> None:
    for role, keys in (("root", root), ("targets", targets)):
        if len({key.keyid for key in keys}) < len(keys):
            raise ReleaseError(f"one key was given twice for {role}; every manager has a key of their own")
    people = {key.keyid: name_of(key) for key in (*root, *targets, online)}
    if len(set(people.values())) < len(people):
        raise ReleaseError("two keys have the same name; a missing signature could not be told from the other")
    if online.keyid in {key.keyid for key in (*root, *targets)}:
        raise ReleaseError(
            f"the online key {name_of(online)} may not sign root or targets: whoever breaks into the server could "
            "release; make a key for the server alone"
        )


def _check_threshold(role: str, keys: Sequence[Key], threshold: int) -> None:
    if not 1 <= threshold <= len(keys):
        raise ReleaseError(
            f"{role} asks for {threshold} signatures from {len(keys)} keys; give more keys or ask for fewer"
        )


def _and(names: Sequence[str], word: str = "and") -> str:
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
