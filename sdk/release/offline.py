"""A published repository in, one file that carries a release to devices without a network out.

It holds what a server would serve, as an uncompressed tar of plain files, and the device reads it with the same checks.
Its snapshot and timestamp last longer than a day, so whoever has an old offline file can show it to a device for as
long; that is the price, and the days are chosen here. Both take version numbers of their own, and the served ones move
past them, so that a device which saw the file never mistakes one for the other.
"""

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from tuf.api.metadata import TargetFile

from sdk.catalogue import Catalogue, Release, catalogue_path, file_path
from sdk.errors import ReleaseError
from sdk.release.describe import catalogues
from sdk.release.keys import SigningKey
from sdk.release.online import make_online
from sdk.release.payload import files_of
from sdk.release.repository import Repository
from sdk.release.roles import OFFLINE
from sdk.release.serve import put_metadata

__all__ = ["write_offline"]


def write_offline(
    repository: Repository,
    online: SigningKey,
    file: Path,
    *,
    channel: str,
    name: str,
    version: str | None = None,
    days: int = 30,
    now: datetime,
    dry: bool = False,
) -> Release:
    """Write a release with all metadata that a device needs into `file`.

    Args:
        repository: Locked; its served timestamp moves on by two versions.
        online: Signs the file's snapshot and timestamp.
        file: Must not exist.
        channel: stable, testing or adapters.
        name: Product.
        version: Which release; None: the newest that is not stopped.
        days: How long devices accept the file.
        now: Time of the making.
        dry: Only say what would be in it.

    Returns:
        The release in the file.

    Raises:
        ReleaseError: No such release, the file exists, or something in it expires sooner; nothing was written.
    """
    repository.check_clock(now)
    view = repository.published()
    if channel not in view:
        raise ReleaseError(f"nothing is published in the channel {channel!r:.40}; choose another or publish first")
    release = _chosen(catalogues(view[channel]), channel, name, version)
    for role in OFFLINE:
        if view[role].signed.expires < now + timedelta(days=days):
            raise ReleaseError(
                f"{role} expires on {view[role].signed.expires:%Y-%m-%d}, before the file would; give fewer --days, or "
                f"renew it with `limbeck release rotate --role {role}`"
            )
    if file.exists():
        raise ReleaseError(f"{file} exists and is not replaced; choose another name")
    snapshot, timestamp = make_online(repository, online, view, now=now, days=days)
    if dry:
        return release
    members: dict[str, bytes | Path] = {
        f"metadata/{root.signed.version}.root.json": repository.metadata / f"{root.signed.version}.root.json"
        for root in repository.roots()
    }
    for role in OFFLINE[1:]:
        served = f"{view[role].signed.version}.{role}.json"
        members[f"metadata/{served}"] = repository.metadata / served
    members[f"metadata/{snapshot.signed.version}.snapshot.json"] = snapshot.to_bytes()
    members["metadata/timestamp.json"] = timestamp.to_bytes()
    for target in _needed(repository, view[channel].signed.targets, channel, name, release):
        served = target.get_prefixed_paths()[0]
        members[f"targets/{served}"] = repository.targets / served
    handle, beside = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name[:40]}.")
    try:
        with os.fdopen(handle, "wb") as out:
            _write_tar(out, members)
            out.flush()
            os.fsync(out.fileno())
        later_snapshot, later = make_online(repository, online, view, now=now, ahead=1)
        put_metadata(repository.metadata / f"{later_snapshot.signed.version}.snapshot.json", later_snapshot)
        put_metadata(repository.metadata / "timestamp.json", later)
        Path(beside).replace(file)
    except OSError as cause:
        raise ReleaseError(f"cannot write {file}: {cause.strerror}; choose another place") from cause
    finally:
        Path(beside).unlink(missing_ok=True)
    return release


def _chosen(offered: dict[str, Catalogue], channel: str, name: str, version: str | None) -> Release:
    if name not in offered:
        raise ReleaseError(f"{channel} offers no {name!r:.80}; it offers {', '.join(offered) or 'nothing yet'}")
    if version is not None:
        return offered[name].find(version)
    going = [release for release in offered[name].releases if not release.rollout.stopped]
    if not going:
        raise ReleaseError(f"every release of {name} in {channel} is stopped; name one with --version")
    return going[0]


def _needed(
    repository: Repository, targets: dict[str, TargetFile], channel: str, name: str, release: Release
) -> Iterator[TargetFile]:
    yield targets[catalogue_path(channel, name)]
    records = files_of(repository.read_target(channel, release.manifest)).values()
    for sha256 in sorted({release.manifest, *(record.sha256 for record in records)}):
        yield targets[file_path(channel, sha256)]


def _write_tar(out: io.BufferedWriter, members: dict[str, bytes | Path]) -> None:
    """The same members give the same bytes: sorted, no times, no owner."""
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in sorted(members.items()):
            member = tarfile.TarInfo(name)
            member.mode = 0o644
            member.size = len(content) if isinstance(content, bytes) else content.stat().st_size
            if isinstance(content, bytes):
                archive.addfile(member, io.BytesIO(content))
            else:
                with content.open("rb") as source:
                    archive.addfile(member, source)
