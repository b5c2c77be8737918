"""A repository's address and a trusted root in; the catalogue and the files that its managers have signed out.

python-tuf verifies thresholds, rotation, expiry, and that no version goes back. What it leaves open is here: the clock
may not go back either, errors become one line, and the cache survives a power cut, so that what was seen stays seen.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tuf.api import exceptions as refusals
from tuf.api.metadata import Metadata, Root, TargetFile
from tuf.api.serialization import DeserializationError
from tuf.ngclient.updater import Updater

from sdk.catalogue import CHANNELS, Catalogue, catalogue_path, file_path
from sdk.device.disk import Disk, stated
from sdk.device.fetch import CarriedFile, Patience, Progress, WebServer, download
from sdk.errors import (
    AlteredError,
    CatalogueError,
    ClockError,
    ExpiredError,
    ReplayedError,
    ServerError,
    SlotError,
    SlowServerError,
    UntrustedError,
    UpdateError,
)

__all__ = ["Repository", "Source", "now"]

FORMAT = "source/1"
MAX_ROOT_BYTES = 512_000  # As python-tuf's own limit.
CLOCK_TOLERANCE = timedelta(hours=1)  # Clocks are corrected by minutes; replayed metadata are days old.
Clock = Callable[[], datetime]


def now() -> datetime:
    """This device's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a home's updates come from; chosen once."""

    url: str
    """Address of the served folder, with metadata/ and targets/ below it."""
    channel: str
    """`stable` or `testing`."""
    name: str
    """The product: name of the bundles."""

    @classmethod
    def load(cls, folder: Path) -> "Source | None":
        """What `keep` wrote, or None.

        Raises:
            SlotError: It is damaged or of a newer format.
        """
        path, advice = folder / "source.json", f"remove {folder} and give --repository"
        if (fields := stated(path, FORMAT, else_do=advice)) is None:
            return None
        try:
            return cls(url=str(fields["url"]), channel=str(fields["channel"]), name=str(fields["name"]))
        except KeyError as cause:
            raise SlotError(f"{path} is damaged; {advice}") from cause

    def keep(self, folder: Path, root: bytes, disk: Disk) -> None:
        """Remember the source and the root that is trusted from the start.

        Raises:
            UpdateError: No such channel, or the root is none; nothing was written.
        """
        if self.channel not in CHANNELS:
            raise UpdateError(f"there is no channel {self.channel!r:.40}; choose {', '.join(CHANNELS)}")
        try:
            if len(root) > MAX_ROOT_BYTES:
                raise ValueError(f"{len(root)} bytes")
            Metadata[Root].from_bytes(root).verify_delegate(Root.type, Metadata[Root].from_bytes(root))
        except (DeserializationError, refusals.RepositoryError, ValueError) as cause:
            raise UntrustedError(f"the given root is no TUF root signed by itself ({_line(cause)})") from cause
        disk.folder(folder)
        disk.put(folder / "trusted_root.json", root)
        fields = {"format": FORMAT, "url": self.url, "channel": self.channel, "name": self.name}
        disk.put(folder / "source.json", json.dumps(fields, indent=1).encode())


class Repository:
    """One look at a repository; make a new one for the next look."""

    def __init__(
        self,
        folder: Path,
        source: Source,
        *,
        seen: datetime | None = None,
        carried: Path | None = None,
        clock: Clock = now,
        patience: Patience | None = None,
        disk: Disk | None = None,
    ) -> None:
        """Open the trusted root; asks nothing yet.

        Args:
            folder: The home's tuf/, where `Source.keep` wrote.
            source: What is wanted from where.
            seen: Latest time at which this device accepted metadata; None at the first look.
            carried: An offline file instead of the server.
            clock: Tells the time.
            patience: With the server.
            disk: Where the cache is synced.
        """
        self.source, self._folder, self._seen, self._clock = source, folder, seen, clock
        self._patience, self._disk = patience or Patience(), disk or Disk()
        self._fetcher = CarriedFile(carried) if carried else WebServer(self._patience)
        self._base = CarriedFile.BASE if carried else source.url.rstrip("/") + "/"
        self._updater: Updater | None = None

    def catalogue(self) -> Catalogue:
        """What is offered: (1) the clock has not gone back, (2) metadata verify, (3) the product is in the channel.

        Raises:
            ClockError, UpdateError: One of them; nothing that was trusted before is lost.
        """
        moment = self._clock()
        if self._seen and moment < self._seen - CLOCK_TOLERANCE:
            raise ClockError(
                f"this device's clock says {moment:%Y-%m-%d %H:%M} but was at {self._seen:%Y-%m-%d %H:%M}; set it right"
            )
        with _in_plain_words(self.source):
            target = self._opened().get_targetinfo(catalogue_path(self.source.channel, self.source.name))
        self._disk_keeps()
        if target is None:
            raise UpdateError(
                f"{self.source.url} offers no {self.source.name} in {self.source.channel}; check the name"
            )
        try:
            found = Catalogue.parse(target.unrecognized_fields.get("custom"))
        except CatalogueError as cause:
            raise UpdateError(str(cause)) from cause
        if found.name != self.source.name:
            raise UpdateError(f"the catalogue of {self.source.name} lists {found.name}; nothing was installed")
        return found

    def file(self, sha256: str, into: Path, *, progress: Progress = lambda done, total: None) -> Path:
        """A signed file of the channel, fetched into a folder.

        Raises:
            UpdateError: Not signed, not served, or another content.
        """
        target = self._target(sha256)
        folder, _, name = target.path.rpartition("/")  # A consistent repository serves a target under its digest.
        return download(
            self._fetcher,
            f"{self._base}targets/{folder}/{sha256}.{name}",
            into,
            sha256=sha256,
            size=target.length,
            patience=self._patience,
            progress=progress,
        )

    def close(self) -> None:
        """Close the connections to the server."""
        self._fetcher.close()

    def size(self, sha256: str) -> int:
        """Signed length of a file of the channel, in bytes."""
        return int(self._target(sha256).length)

    def _target(self, sha256: str) -> TargetFile:
        with _in_plain_words(self.source):
            target = self._opened().get_targetinfo(file_path(self.source.channel, sha256))
        if target is None or target.hashes.get("sha256") != sha256:
            raise UntrustedError(f"{sha256[:12]}… is named by the release but not signed; nothing was fetched")
        return target

    def _opened(self) -> Updater:
        if self._updater is None:
            root = (self._folder / "trusted_root.json").read_bytes()
            cache = self._folder / "metadata"
            self._disk.folder(cache)
            self._updater = Updater(str(cache), f"{self._base}metadata/", fetcher=self._fetcher, bootstrap=root)
            self._updater.refresh()
        return self._updater

    def _disk_keeps(self) -> None:
        """Sync python-tuf's cache: it renames without a sync, and a lost cache would let old metadata in again."""
        for path in (self._folder / "metadata").rglob("*.json"):
            with path.open("rb") as file:
                self._disk.sync_file(file.fileno())
        self._disk.sync_all(self._folder / "metadata")


@contextmanager
def _in_plain_words(source: Source) -> Iterator[None]:
    """Translate what python-tuf raises into what a person can act on."""
    where = source.url
    try:
        yield
    except refusals.ExpiredMetadataError as cause:
        raise ExpiredError(
            f"{where} serves metadata that are past their date ({_line(cause)}); it is frozen, or this clock is wrong"
        ) from cause
    except refusals.BadVersionNumberError as cause:
        raise ReplayedError(f"{where} serves older metadata than this device has seen ({_line(cause)})") from cause
    except refusals.UnsignedMetadataError as cause:
        raise UntrustedError(f"{where} serves metadata that too few keys have signed ({_line(cause)})") from cause
    except refusals.LengthOrHashMismatchError as cause:
        raise AlteredError(f"{where} serves other metadata than were signed ({_line(cause)})") from cause
    except (refusals.SlowRetrievalError, refusals.DownloadLengthMismatchError) as cause:
        raise SlowServerError(f"{where} sends too slowly or without end ({_line(cause)}); try later") from cause
    except refusals.DownloadError as cause:
        raise ServerError(
            f"{where} does not serve a repository ({_line(cause)}); check the address, try later"
        ) from cause
    except DeserializationError as cause:
        raise ServerError(f"{where} answers with something that is no metadata; check the address") from cause
    except refusals.RepositoryError as cause:
        raise UntrustedError(f"{where} serves metadata that do not verify ({_line(cause)})") from cause
    except OSError as cause:
        raise SlotError(
            f"the metadata of {where} cannot be kept ({cause.strerror or cause}); free some room"
        ) from cause


def _line(cause: BaseException) -> str:
    return (str(cause) or type(cause).__name__).splitlines()[0][:160]
