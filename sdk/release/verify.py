"""A published repository in, everything that a device could load from it, loaded and compared, out.

The folder, its address or an offline file is read with python-tuf's own client from a given root on, exactly as a
device reads it, and then further than any one device does:

(1) roots, timestamp, snapshot, targets and every channel verify and are in date;
(2) every listed file is there with its length and digest, and an offline file holds no other;
(3) each catalogue's file says what its signed metadata say;
(4) of each release all files that its manifest names are listed, with the sizes that it says.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import urllib3
from tuf.api.exceptions import DownloadError
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, TargetFile
from tuf.ngclient import Updater

from sdk.catalogue import CHANNELS, Catalogue, file_path
from sdk.errors import BundleError, CatalogueError, RepositoryError
from sdk.release.describe import catalogues
from sdk.release.payload import files_of
from sdk.release.sources import OfflineFile, opened

__all__ = ["Findings", "verify"]

ROLES = ("root", "timestamp", "snapshot", "targets", *CHANNELS)
Progress = Callable[[str, int, int], None]
"""Told (what is done now, done, total)."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was verified."""

    versions: dict[str, int]
    """Role to version."""
    catalogues: dict[str, dict[str, Catalogue]]
    """Channel to product to what is offered."""
    files: int
    """Files that were read and compared."""
    bytes: int
    """Their size together."""
    valid_until: datetime
    """When the first of the metadata expires."""


def verify(source: Path | str, root: bytes, *, progress: Progress = lambda what, done, total: None) -> Findings:
    """Read a repository as devices do, and everything in it.

    Args:
        source: The served folder, an offline file, or an address that begins with http.
        root: The root that devices trust from the start.
        progress: Told how many files are compared.

    Raises:
        RepositoryError: Something does not verify, is missing, or is too much; the text says what.
    """
    base, fetcher = opened(source)
    try:
        with tempfile.TemporaryDirectory() as cache:
            client = Updater(cache, f"{base}metadata/", cache, f"{base}targets/", fetcher, bootstrap=root)
            view = _loaded(client, Path(cache))
            listed = {path: target for channel in CHANNELS for path, target in view[channel].signed.targets.items()}
            if isinstance(fetcher, OfflineFile):
                listed = _carried(fetcher, listed, view)
            offered = {channel: catalogues(view[channel]) for channel in CHANNELS}
            for number, target in enumerate(listed.values()):
                progress("compare files", number, len(listed))
                _compare(client, target, Path(cache) / "target")
            for channel, products in offered.items():
                for catalogue in products.values():
                    _check_releases(client, channel, catalogue, listed, Path(cache) / "target")
            progress("compare files", len(listed), len(listed))
    except (TufError, DownloadError, urllib3.exceptions.HTTPError) as cause:
        raise RepositoryError(f"{source} does not verify: {_line(cause)}; devices refuse it too") from cause
    except (CatalogueError, BundleError, KeyError) as cause:
        raise RepositoryError(f"{source} is signed, but wrong: {_line(cause)}; make the release again") from cause
    except OSError as cause:
        raise RepositoryError(f"{source} cannot be read: {cause.strerror or cause}; check the path") from cause
    return Findings(
        versions={role: metadata.signed.version for role, metadata in view.items()},
        catalogues=offered,
        files=len(listed),
        bytes=sum(target.length for target in listed.values()),
        valid_until=min(metadata.signed.expires for metadata in view.values()),
    )


def _loaded(client: Updater, cache: Path) -> dict[str, Metadata[Any]]:
    """Check (1); the client keeps what it verified in its cache."""
    client.refresh()
    for channel in CHANNELS:
        client.get_targetinfo(f"{channel}/-/-")  # Nothing is called so; looking for it loads the channel.
    return {role: Metadata.from_bytes((cache / f"{role}.json").read_bytes()) for role in ROLES}


def _compare(client: Updater, target: TargetFile, place: Path) -> None:
    """Checks (2) and (3)."""
    client.download_target(target, str(place))
    if target.custom is not None and json.loads(place.read_bytes()) != target.custom:
        raise CatalogueError(f"{target.path} says something else to people than to devices")


def _check_releases(
    client: Updater, channel: str, catalogue: Catalogue, listed: Mapping[str, TargetFile], place: Path
) -> None:
    """Check (4), of the releases whose manifest is there: an offline file carries some."""
    for release in catalogue.releases:
        named = f"{catalogue.name} {release.version} in {channel}"
        manifest = listed.get(file_path(channel, release.manifest))
        if manifest is None:
            continue
        client.download_target(manifest, str(place))
        size = manifest.length
        for path, record in files_of(place.read_bytes()).items():
            target = listed.get(file_path(channel, record.sha256))
            if target is None or target.length != record.bytes:
                raise CatalogueError(f"{named} lacks {path}")
            size += record.bytes
        if size != release.bytes:
            raise CatalogueError(f"{named} has {size} bytes, its catalogue says {release.bytes}")


def _carried(
    archive: OfflineFile, listed: Mapping[str, TargetFile], view: Mapping[str, Metadata[Any]]
) -> dict[str, TargetFile]:
    """The listed files that an offline file carries; it must hold no other file, and at least one release."""
    names = {f"targets/{target.get_prefixed_paths()[0]}": target for target in listed.values()}
    metadata = {f"metadata/{view[role].signed.version}.{role}.json" for role in ROLES if role != "timestamp"}
    metadata |= {f"metadata/{number}.root.json" for number in range(1, view["root"].signed.version)}
    if extra := sorted(archive.members.keys() - names.keys() - metadata - {"metadata/timestamp.json"}):
        raise RepositoryError(f"{archive.file} holds {extra[0]!r:.120}, which is not signed; make it again")
    found = {target.path: target for name, target in names.items() if name in archive.members}
    manifests = {
        file_path(channel, release.manifest)
        for channel in CHANNELS
        for catalogue in catalogues(view[channel]).values()
        for release in catalogue.releases
    }
    if not manifests & found.keys():
        raise RepositoryError(f"{archive.file} holds no release; make it again")
    return found


def _line(cause: BaseException) -> str:
    return (str(cause) or type(cause).__name__).splitlines()[0][:200]
