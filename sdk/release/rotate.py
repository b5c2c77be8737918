"""Keys that come, keys that go, thresholds and expiries in; the metadata that managers must sign for it out.

Keys of root, targets and the online roles stand in root, keys of a channel in targets. A role whose keys change is made
anew as well, because what a key signed that left may fall below the threshold. A new root needs the old root's managers
and its own (TUF's cross-signing), so devices follow from any root they ever trusted.
"""

import copy
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tuf.api.metadata import Key, Metadata

from sdk.catalogue import CHANNELS
from sdk.errors import ReleaseError
from sdk.release.keys import name_of
from sdk.release.repository import Repository
from sdk.release.request import Request
from sdk.release.roles import OFFLINE, View, expiry, first_view, holders, renewed

__all__ = ["ONLINE", "begin", "roles_of", "rotate"]

ONLINE = "online"
"""Snapshot and timestamp, which share one key."""


def begin(
    folder: Path,
    *,
    root: Sequence[Key],
    targets: Sequence[Key],
    online: Key,
    thresholds: Mapping[str, int],
    now: datetime,
    dry: bool = False,
) -> Request:
    """Make a repository and let its first metadata wait for signatures.

    Raises:
        ReleaseError: The keys cannot meet the thresholds, or the folder holds something; nothing was made.
    """
    view = first_view(root, targets, online, thresholds=thresholds, now=now)
    if dry:
        return Request(before={}, changed=view)
    return Repository.create(folder).change(view, dry=False)


def rotate(
    repository: Repository,
    *,
    roles: Sequence[str],
    add: Sequence[Key] = (),
    remove: Sequence[str] = (),
    threshold: int | None = None,
    now: datetime,
    dry: bool = False,
) -> Request:
    """Change who may sign `roles`; without a change, renew what is about to expire.

    Args:
        repository: Locked and published at least once.
        roles: Of root, targets, stable, testing, adapters and online.
        add: Keys that may sign from now on.
        remove: Names of those who may no more.
        threshold: Signatures needed from now on; None leaves it.
        now: Time of the change.
        dry: Only say what would be.

    Raises:
        ReleaseError: A name or role is not there, or the threshold could not be met; nothing changed.
    """
    repository.check_clock(now)
    if not repository.published():
        raise ReleaseError("nothing is published yet; publish what `limbeck release init` made first")
    view = repository.current()
    changes = bool(add or remove or threshold)
    making: dict[str, Metadata[Any]] = {}
    for role in roles:
        vouching = "targets" if role in CHANNELS else "root"
        if role == ONLINE and not changes:
            raise ReleaseError(
                "`limbeck release publish` renews snapshot and timestamp; rotate online changes their key"
            )
        if changes:
            _anew(repository, view, making, vouching, now)
            for below in ("snapshot", "timestamp") if role == ONLINE else (role,):
                _change_keys(making[vouching], below, add, remove, threshold)
        if role in OFFLINE:
            _anew(repository, view, making, role, now)
    _check_separate({**view, **making})
    return repository.change(making, dry=dry)


def roles_of(repository: Repository, names: Sequence[str]) -> list[str]:
    """Roles that all of these people sign.

    Raises:
        ReleaseError: There is none.
    """
    view = repository.current()
    signing = {role: {name_of(key) for key in holders(view, role)[1].values()} for role in (*OFFLINE, "timestamp")}
    found = [role for role in OFFLINE if set(names) <= signing[role]]
    found += [ONLINE] if set(names) <= signing["timestamp"] else []
    if not found:
        raise ReleaseError(f"{', '.join(names)} sign nothing together; see `limbeck release status`")
    return found


def _anew(repository: Repository, view: View, making: dict[str, Metadata[Any]], role: str, now: datetime) -> None:
    """Have `making` hold the version of a role that is being made: what waits, or the one after the published."""
    if role in making:
        return
    waiting = repository.waiting()
    if waiting and role in waiting.changed:
        making[role] = copy.deepcopy(view[role])
        making[role].signed.expires = expiry(role, now)
        making[role].signatures.clear()
    else:
        making[role] = renewed(view[role], role, now)


def _change_keys(
    metadata: Metadata[Any], role: str, add: Sequence[Key], remove: Sequence[str], threshold: int | None
) -> None:
    signed = metadata.signed
    names = {name_of(signed.get_key(keyid)): keyid for keyid in signed.get_delegated_role(role).keyids}
    for name in remove:
        if name not in names:
            raise ReleaseError(f"{name!r:.80} does not sign {role}; those who do: {', '.join(sorted(names))}")
        signed.revoke_key(names.pop(name), role)
    for key in add:
        if name_of(key) in names or key.keyid in names.values():
            raise ReleaseError(
                f"{name_of(key)} signs {role} already; a new key of the same person needs the old one out"
            )
        signed.add_key(key, role)
        names[name_of(key)] = key.keyid
    given = signed.get_delegated_role(role)
    given.threshold = given.threshold if threshold is None else threshold
    if not 1 <= given.threshold <= len(given.keyids):
        raise ReleaseError(
            f"{role} would ask for {given.threshold} signatures of {len(given.keyids)} keys; give --add or --threshold"
        )


def _check_separate(view: View) -> None:
    """The online key stays apart from those that may release."""
    offline = {keyid for role in OFFLINE for keyid in holders(view, role)[1]}
    for role in ("snapshot", "timestamp"):
        for keyid, key in holders(view, role)[1].items():
            if keyid in offline:
                raise ReleaseError(f"{name_of(key)} would sign online and offline; make a key for the server alone")
