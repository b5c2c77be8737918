"""An address in, its bytes out: from a static web server or from a carried file, with patience but not without end.

Rules:
    1. Every device sends the same request for the same thing: no cookie, no conditional header, no version, no name.
    2. A transfer that breaks goes on where it stopped (HTTP Range); what was fetched stays on the disk.
    3. A server that stalls, or sends less than a trickle, is left.
    4. What arrives is worth nothing until its length and SHA-256 are those that were signed.
"""

import hashlib
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError
from tuf.ngclient.fetcher import FetcherInterface

from sdk.errors import AlteredError, ServerError, SlotError, SlowServerError

__all__ = ["CarriedFile", "Fetcher", "Patience", "WebServer", "download"]

HEADERS = {"User-Agent": "limbeck", "Accept-Encoding": "identity"}  # The same for every device and version.
PIECE_BYTES = 128 * 1024
REDIRECTS = 3  # Some static hosts redirect to where the bytes are; what comes back is verified all the same.
MAX_MEMBERS = 100_000  # Of a carried file; a release has some dozens.
FRUITLESS = 3  # Attempts in a row that bring no byte; then the server is given up.

Progress = Callable[[int, int], None]
"""Told (bytes that are there, bytes of the whole file)."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server may take."""

    seconds: float = 20.0
    """For a connection, and between two pieces, > 0."""
    grace_seconds: float = 30.0
    """How long any rate is endured, ≥ 0."""
    bytes_per_second: float = 2_000.0
    """Least mean rate after that, ≥ 0."""
    pause_seconds: float = 1.0
    """Pause after a first fruitless attempt; it doubles each time."""


class Fetcher(Protocol):
    """Where bytes come from."""

    def open_at(self, url: str, start: int) -> tuple[int, Iterator[bytes]]:
        """Begin to read `url` at byte `start`, or at 0 where that cannot be; returns where, and the pieces.

        Raises:
            DownloadError: Of python-tuf, also while pieces are taken.
        """
        ...

    def fetch(self, url: str) -> Iterator[bytes]:
        """All pieces of `url`, as python-tuf asks for metadata."""
        ...


class WebServer(FetcherInterface):
    """Any static HTTP server."""

    def __init__(self, patience: Patience | None = None) -> None:
        """Nothing is asked yet."""
        self._patience = patience or Patience()
        self._pool: urllib3.PoolManager | None = None
        self._answers: set[urllib3.BaseHTTPResponse] = (
            set()
        )  # Whose pieces were not all taken: nobody else closes them.

    def open_at(self, url: str, start: int) -> tuple[int, Iterator[bytes]]:
        """See Fetcher."""
        headers = HEADERS | ({"Range": f"bytes={start}-"} if start else {})
        wait = urllib3.Timeout(self._patience.seconds)
        retries = urllib3.Retry(total=REDIRECTS, connect=0, read=0, status=0, other=0, redirect=REDIRECTS)
        try:
            answer = self._opened(url).request(
                "GET", url, headers=headers, preload_content=False, timeout=wait, retries=retries
            )
        except urllib3.exceptions.HTTPError as cause:
            reason = getattr(cause, "reason", cause)
            if isinstance(reason, urllib3.exceptions.TimeoutError) and not isinstance(
                reason, urllib3.exceptions.NewConnectionError
            ):
                raise SlowRetrievalError(f"no answer within {self._patience.seconds:g} seconds") from cause
            raise DownloadError(f"{urlsplit(url).netloc} cannot be reached") from cause
        if answer.status >= 400:
            answer.close()
            raise DownloadHTTPError(f"the server answers {answer.status}", answer.status)
        partly = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if start and answer.status == 206 and not partly:
            answer.close()
            raise DownloadError("the server sends another range than was asked for")
        self._answers.add(answer)
        return (start if partly else 0), self._pieces(answer)

    def close(self) -> None:
        """Close every connection, also of what is half read; the next request opens one again."""
        while self._answers:
            self._answers.pop().close()
        if self._pool is not None:
            self._pool.clear()
            self._pool = None

    def _fetch(self, url: str) -> Iterator[bytes]:
        return self.open_at(url, 0)[1]

    def _pieces(self, answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        begun, came = time.monotonic(), 0
        try:
            while piece := answer.read1(PIECE_BYTES):
                came += len(piece)
                yield piece
                late = time.monotonic() - begun - self._patience.grace_seconds
                if late > 0 and came < self._patience.bytes_per_second * (late + self._patience.grace_seconds):
                    raise SlowRetrievalError(f"{came} bytes in {late + self._patience.grace_seconds:.0f} seconds")
        except urllib3.exceptions.TimeoutError as cause:
            raise SlowRetrievalError(f"nothing came for {self._patience.seconds:g} seconds") from cause
        except urllib3.exceptions.HTTPError as cause:
            raise DownloadError("the connection broke") from cause
        finally:
            answer.close()
            self._answers.discard(answer)

    def _opened(self, url: str) -> urllib3.PoolManager:
        if self._pool is None:
            parts, proxies = urlsplit(url), getproxies()
            proxy = None if proxy_bypass(parts.hostname or "") else proxies.get(parts.scheme)
            self._pool = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager()
        return self._pool


class CarriedFile(FetcherInterface):
    """A repository in one uncompressed tar file; its members are read where they stand, nothing is ever extracted."""

    BASE = "carried:/"

    def __init__(self, file: Path) -> None:
        """Read the table of contents.

        Raises:
            AlteredError: Not a tar file, or one with a member that is no plain file below metadata/ or targets/.
        """
        self._file, self._places = file, dict[str, tuple[int, int]]()
        try:
            with tarfile.open(file, "r:") as archive:
                for member in archive:
                    self._check(member)
                    self._places[member.name] = (member.offset_data, member.size)
        except (OSError, tarfile.TarError, UnicodeError) as cause:
            raise AlteredError(f"{file} cannot be read as an offline file ({cause}); get it again") from cause

    def _check(self, member: tarfile.TarInfo) -> None:
        parts = PurePosixPath(member.name).parts
        plain = member.isreg() and not member.issparse() and member.name == "/".join(parts)
        if not plain or ".." in parts or parts[0] not in ("metadata", "targets") or member.name in self._places:
            raise AlteredError(f"{self._file.name} holds {member.name!r:.80}, which no release holds; get it again")
        if len(self._places) >= MAX_MEMBERS:
            raise AlteredError(f"{self._file.name} holds over {MAX_MEMBERS} files; get it again")

    def close(self) -> None:
        """Nothing is open between two pieces."""

    def open_at(self, url: str, start: int) -> tuple[int, Iterator[bytes]]:
        """See Fetcher."""
        name = url.removeprefix(self.BASE)
        if name not in self._places:
            raise DownloadHTTPError(f"{name} is not in {self._file.name}", 404)
        place, size = self._places[name]
        return start, self._pieces(place + start, size - start)

    def _fetch(self, url: str) -> Iterator[bytes]:
        return self.open_at(url, 0)[1]

    def _pieces(self, place: int, left: int) -> Iterator[bytes]:
        with self._file.open("rb") as file:
            file.seek(place)
            while left > 0:
                piece = file.read(min(left, PIECE_BYTES))
                if not piece:
                    raise DownloadError(f"{self._file.name} ends too early")
                left -= len(piece)
                yield piece


def download(
    fetcher: Fetcher,
    url: str,
    into: Path,
    *,
    sha256: str,
    size: int,
    patience: Patience | None = None,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Fetch a file to `into`/`sha256`; what a broken attempt left is gone on with, what is there whole is taken.

    Args:
        fetcher: Where from.
        url: Its address.
        into: A folder on the file system where the file is wanted.
        sha256: Signed digest, 64 hex digits.
        size: Signed length in bytes.
        patience: How long a server may take.
        progress: Told how far it is.

    Raises:
        ServerError: Down, refusing, or too slow; what came stays for the next attempt.
        AlteredError: It is not the file that was signed; it was deleted.
        SlotError: The disk; what came stays.
    """
    whole, part = into / sha256, into / f"{sha256}.part"
    if whole.exists() and whole.stat().st_size == size and _digest(whole) == sha256:
        return whole
    wait, fruitless = patience or Patience(), 0
    while (had := part.stat().st_size if part.exists() else 0) < size:
        try:
            _go_on(fetcher, url, part, had, size, progress)
        except OSError as cause:
            raise SlotError(f"{part.name[:12]}… cannot be written ({cause.strerror}); free some room") from cause
        except DownloadError as cause:
            fruitless = 0 if part.exists() and part.stat().st_size > had else fruitless + 1
            refused = isinstance(cause, DownloadHTTPError) and cause.status_code not in (408, 429, 500, 502, 503, 504)
            if refused or fruitless >= FRUITLESS:
                kind = SlowServerError if isinstance(cause, SlowRetrievalError) else ServerError
                here = part.stat().st_size if part.exists() else 0
                raise kind(f"the update server fails ({cause}); {here} of {size} bytes are kept, try later") from cause
            if fruitless:
                time.sleep(wait.pause_seconds * 2 ** (fruitless - 1))
    if not size:
        part.touch()
    if _digest(part) != sha256:
        part.unlink()
        raise AlteredError(f"{sha256[:12]}… came with another content than was signed; it was deleted, try later")
    part.replace(whole)
    return whole


def _go_on(fetcher: Fetcher, url: str, part: Path, had: int, size: int, progress: Progress) -> None:
    start, pieces = fetcher.open_at(url, had)
    if start != had:  # The server cannot go on in the middle.
        part.unlink(missing_ok=True)
    with part.open("ab") as file:
        here = start
        for piece in pieces:
            here += len(piece)
            if here > size:
                file.close()
                part.unlink()
                raise AlteredError(f"the server sends more than the {size} bytes that were signed; nothing was kept")
            file.write(piece)
            progress(here, size)
        file.flush()
        os.fsync(file.fileno())
    if here < size:
        raise DownloadError("the connection broke")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
