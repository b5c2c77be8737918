"""A payload or a decision in, the changed metadata of one channel out: add, roll out, stop, revoke.

Nothing here signs or publishes. Each change is laid on top of what waits already; signatures on the channel that were
given before are dropped.
"""

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, TargetFile

from sdk.bundle import Bundle
from sdk.catalogue import (
    CHANNELS,
    MAX_RELEASES,
    Catalogue,
    Health,
    Release,
    Requirements,
    Rollout,
    catalogue_path,
    file_path,
    product_name,
)
from sdk.errors import CatalogueError, ReleaseError
from sdk.release.delta import make_delta
from sdk.release.describe import catalogues
from sdk.release.payload import Payload, files_of
from sdk.release.repository import Repository
from sdk.release.request import Request
from sdk.release.roles import expiry, renewed

__all__ = ["Offer", "add", "add_with_deltas", "raise_minimum", "revoke", "roll_out"]

MAX_TARGETS_BYTES = 5_000_000  # python-tuf on a device reads no larger metadata of a channel.


@dataclass(frozen=True, kw_only=True)
class Offer:
    """How a payload is to be offered."""

    per10k: int = 100
    """Devices out of 10,000 that may take it at first."""
    requires: Requirements = field(default_factory=Requirements)
    """What a device must have."""
    health: Health = field(default_factory=Health)
    """What it must show."""


def add(
    repository: Repository,
    payload: Payload,
    offer: Offer,
    *,
    channel: str,
    deltas: Mapping[str, Path],
    now: datetime,
    dry: bool = False,
) -> Request:
    """Offer a payload in a channel as the newest release of its product.

    Args:
        repository: Locked.
        payload: What devices get.
        offer: To whom, and on which conditions.
        channel: stable, testing or adapters.
        deltas: SHA-256 of an older manifest to the delta from that bundle.
        now: Time of the change.
        dry: Only say what would be.

    Raises:
        ReleaseError: The version is there already, was revoked, or belongs in another channel; nothing changed.
    """
    if (payload.kind == "base") == (channel == "adapters"):
        raise ReleaseError(f"{payload.name} is of kind {payload.kind} and does not belong in the channel {channel}")
    metadata = _next(repository, channel, now)
    known = catalogues(metadata)
    try:
        old = known.get(payload.name) or Catalogue(name=product_name(payload.name), kind=payload.kind)
    except CatalogueError as cause:
        raise ReleaseError(str(cause)) from cause
    _check_new(old, payload)
    digests = {base: _digest(file) for base, file in deltas.items()}
    release = Release(
        version=payload.version,
        sequence=old.last_sequence + 1,
        manifest=payload.digest,
        bytes=payload.bytes,
        base_digest=payload.base_digest,
        rollout=Rollout(salt=_salt(payload), per10k=offer.per10k),
        requires=offer.requires,
        health=offer.health,
        deltas=digests,
    )
    new = replace(old, releases=(release, *old.releases), last_sequence=release.sequence)
    if len(new.releases) > MAX_RELEASES:
        raise ReleaseError(f"{old.name} has {MAX_RELEASES} releases in {channel}; revoke old ones first")
    sizes = {record.sha256: record.bytes for record in payload.files.values()}
    sizes |= {payload.digest: len(payload.manifest)}
    sizes |= {digests[base]: file.stat().st_size for base, file in deltas.items()}
    if not dry:
        for path, record in payload.files.items():
            repository.keep(channel, payload.folder / path, record.sha256)
        repository.keep(channel, payload.manifest, payload.digest)
        for base, file in deltas.items():
            repository.keep(channel, file, digests[base])
    manifests = {payload.digest: payload.manifest}
    return _offered(repository, channel, metadata, {**known, new.name: new}, sizes, manifests, dry=dry)


def add_with_deltas(
    repository: Repository,
    payload: Payload,
    offer: Offer,
    older: Sequence[Path],
    *,
    channel: str,
    now: datetime,
    dry: bool = False,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Request:
    """The same as `add`, with deltas made from bundles that devices have.

    Raises:
        BundleError: One of the older bundles is damaged; nothing changed.
        PatchError: A delta did not rebuild the payload; nothing changed.
        ReleaseError: As in `add`, or an extra was to have a delta.
    """
    if older and payload.kind != "base":
        raise ReleaseError(f"a {payload.kind} is shipped whole; leave --delta-from out")
    with tempfile.TemporaryDirectory(dir=repository.folder) as made:
        deltas: dict[str, Path] = {}
        for number, folder in enumerate(older):
            report = make_delta(
                Bundle.open(folder), Bundle.open(payload.folder), Path(made) / f"{number}.delta", progress=progress
            )
            deltas[report.from_digest.removeprefix("sha256:")] = Path(made) / f"{number}.delta"
        return add(repository, payload, offer, channel=channel, deltas=deltas, now=now, dry=dry)


def roll_out(
    repository: Repository, *, channel: str, name: str, version: str, per10k: int, now: datetime, dry: bool = False
) -> Request:
    """Let a release reach another share of devices; 0 stops it.

    Raises:
        CatalogueError: There is no such release.
        ReleaseError: It has this share already.
    """

    def change(old: Catalogue) -> Catalogue:
        release = old.find(version)
        if release.rollout.per10k == per10k:
            raise ReleaseError(f"{name} {version} reaches {per10k / 100:g} % of devices already; nothing changed")
        moved = replace(release, rollout=replace(release.rollout, per10k=per10k))
        return replace(old, releases=tuple(moved if each is release else each for each in old.releases))

    return _changed(repository, channel, name, change, now, dry=dry)


def revoke(
    repository: Repository, *, channel: str, name: str, version: str, now: datetime, dry: bool = False
) -> Request:
    """Take a release back: devices that have it leave it at once, to another release or to the bundle before.

    Raises:
        CatalogueError: There is no such release.
    """

    def change(old: Catalogue) -> Catalogue:
        gone = old.find(version)
        rest = tuple(each for each in old.releases if each is not gone)
        return replace(old, releases=rest, revoked=(*old.revoked, gone.manifest))

    return _changed(repository, channel, name, change, now, dry=dry)


def raise_minimum(
    repository: Repository, *, channel: str, name: str, version: str, now: datetime, dry: bool = False
) -> Request:
    """Make devices below a release move on at once, whatever their bucket.

    Raises:
        CatalogueError: There is no such release.
        ReleaseError: The minimum is there or above already.
    """

    def change(old: Catalogue) -> Catalogue:
        sequence = old.find(version).sequence
        if sequence <= old.minimum_sequence:
            raise ReleaseError(
                f"the minimum of {name} is release number {old.minimum_sequence} already; it never falls"
            )
        return replace(old, minimum_sequence=sequence)

    return _changed(repository, channel, name, change, now, dry=dry)


def _changed(
    repository: Repository,
    channel: str,
    name: str,
    change: Callable[[Catalogue], Catalogue],
    now: datetime,
    *,
    dry: bool,
) -> Request:
    metadata = _next(repository, channel, now)
    known = catalogues(metadata)
    if name not in known:
        raise ReleaseError(f"{channel} offers no {name!r:.80}; it offers {', '.join(known) or 'nothing yet'}")
    return _offered(repository, channel, metadata, {**known, name: change(known[name])}, {}, {}, dry=dry)


def _next(repository: Repository, channel: str, now: datetime) -> Metadata[Any]:
    """The version that is being made: what waits, without its signatures, or the one after the published."""
    if channel not in CHANNELS:
        raise ReleaseError(f"there is no channel {channel!r:.40}; choose {', '.join(CHANNELS)}")
    repository.check_clock(now)
    waiting, published = repository.waiting(), repository.published()
    if waiting is None or channel not in waiting.changed:
        return renewed(published[channel], channel, now)
    metadata = copy.deepcopy(waiting.changed[channel])
    metadata.signatures.clear()
    metadata.signed.expires = expiry(channel, now)
    return metadata


def _offered(
    repository: Repository,
    channel: str,
    metadata: Metadata[Any],
    products: Mapping[str, Catalogue],
    sizes: Mapping[str, int],
    manifests: Mapping[str, bytes],
    *,
    dry: bool,
) -> Request:
    """Write the targets of a channel anew from its catalogues: each catalogue, and every file that a release needs."""
    known = {path.rpartition("/")[2]: target.length for path, target in metadata.signed.targets.items()} | dict(sizes)
    targets: dict[str, TargetFile] = {}
    for name, catalogue in sorted(products.items()):
        custom = catalogue.to_custom()
        content = (json.dumps(custom, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n").encode()
        target = TargetFile.from_data(catalogue_path(channel, name), content)
        target.unrecognized_fields["custom"] = custom
        targets[target.path] = target
        if not dry:
            repository.keep(channel, content, target.hashes["sha256"])
        for release in catalogue.releases:
            manifest = manifests.get(release.manifest) or repository.read_target(channel, release.manifest)
            records = files_of(manifest).values()
            for sha256 in (release.manifest, *(record.sha256 for record in records), *release.deltas.values()):
                path = file_path(channel, sha256)
                targets[path] = TargetFile(known[sha256], {"sha256": sha256}, path)
    metadata.signed.targets = dict(sorted(targets.items()))
    if len(metadata.to_bytes()) > MAX_TARGETS_BYTES * 9 // 10:  # Signatures come on top.
        raise ReleaseError(f"{channel} lists {len(targets)} files, more than a device reads; revoke old releases first")
    return repository.change({channel: metadata}, dry=dry)


def _check_new(old: Catalogue, payload: Payload) -> None:
    if old.kind != payload.kind:
        raise ReleaseError(f"{old.name} is of kind {old.kind}, not {payload.kind}; give the other another name")
    if payload.digest in old.revoked:
        raise ReleaseError(f"{payload.name} {payload.version} was revoked; what was taken back is not offered again")
    for release in old.releases:
        if release.manifest == payload.digest:
            raise ReleaseError(f"{payload.name} {payload.version} is offered already; see `limbeck release status`")
        if release.version == payload.version:
            raise ReleaseError(
                f"{payload.name} {payload.version} is offered with other content; another content needs another version"
            )


def _salt(payload: Payload) -> str:
    """Follows from the release, so that the same bundle gives the same metadata, and another one other buckets."""
    text = f"limbeck rollout\n{payload.name}\n{payload.version}\n{payload.digest}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
