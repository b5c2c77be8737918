"""A served folder, an address or an offline file in, something that python-tuf reads as it reads a server out."""

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.ngclient import FetcherInterface
from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher

from sdk.errors import RepositoryError

__all__ = ["HERE", "OfflineFile", "ServedFolder", "opened"]

HERE = "here:/"  # Address of what is read without a server.
PIECE_BYTES = 1024 * 1024


class ServedFolder(FetcherInterface):
    """The folder that a static server serves, read without one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        file = self.folder / url.removeprefix(HERE)
        if not file.is_file():
            raise DownloadHTTPError(f"{url.removeprefix(HERE)} is not there", 404)
        return _pieces(file, 0, file.stat().st_size)


class OfflineFile(FetcherInterface):
    """A repository in one uncompressed tar file, read where it stands; nothing is extracted."""

    def __init__(self, file: Path) -> None:
        """Read the table of contents.

        Raises:
            RepositoryError: Not a tar file, or a member that is no plain file below metadata/ or targets/.
        """
        self.file, self.members = file, dict[str, tuple[int, int]]()
        try:
            with tarfile.open(file, "r:") as archive:
                for member in archive:
                    parts = PurePosixPath(member.name).parts
                    plain = member.isreg() and "/".join(parts) == member.name and ".." not in parts
                    if not plain or parts[0] not in ("metadata", "targets") or member.name in self.members:
                        raise RepositoryError(f"{file} holds {member.name!r:.80}, which no offline file holds")
                    self.members[member.name] = (member.offset_data, member.size)
        except (OSError, tarfile.TarError, UnicodeError) as cause:
            raise RepositoryError(f"{file} cannot be read as an offline file ({cause}); make it again") from cause

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix(HERE)
        if name not in self.members:
            raise DownloadHTTPError(f"{name} is not in {self.file.name}", 404)
        return _pieces(self.file, *self.members[name])


def opened(source: Path | str) -> tuple[str, FetcherInterface]:
    """Base address and reader of a folder, an address that begins with http, or an offline file.

    Raises:
        RepositoryError: It is an offline file that is damaged, or neither of the three.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return source.rstrip("/") + "/", Urllib3Fetcher()
    place = Path(source)
    if place.is_dir():
        return HERE, ServedFolder(place)
    return HERE, OfflineFile(place)


def _pieces(file: Path, begin: int, left: int) -> Iterator[bytes]:
    with file.open("rb") as content:
        content.seek(begin)
        while left > 0:
            piece = content.read(min(left, PIECE_BYTES))
            if not piece:
                raise DownloadError(f"{file.name} ends too early")
            left -= len(piece)
            yield piece
