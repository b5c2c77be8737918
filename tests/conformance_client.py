"""The command line that the public suite tuf-conformance speaks to a client, over this project's parts.

    python -m tests.conformance_client --metadata-dir DIR init ROOT
    python -m tests.conformance_client --metadata-dir DIR --metadata-url URL refresh
    python -m tests.conformance_client --metadata-dir DIR --metadata-url URL --target-name NAME … --target-base-url URL
        --target-dir DIR download

The metadata are python-tuf's, fetched by sdk.device.fetch.WebServer; targets come by its resumable download. How to run
the suite: docs/updates.md.
"""

import argparse
import sys
from pathlib import Path
from urllib.parse import quote

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.ngclient.updater import Updater

from sdk.device.fetch import Patience, WebServer, download
from sdk.errors import SdkError

PATIENCE = Patience(seconds=5.0, pause_seconds=0.01)


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("--metadata-dir", "--metadata-url", "--target-base-url", "--target-dir"):
        parser.add_argument(name)
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("command", choices=["init", "refresh", "download"])
    parser.add_argument("root", nargs="?")
    given = parser.parse_args()
    folder = Path(given.metadata_dir)
    if given.command == "init":
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "root.json").write_bytes(Path(given.root).read_bytes())
        return 0
    try:
        server = WebServer(PATIENCE)
        updater = Updater(str(folder), given.metadata_url, fetcher=server, bootstrap=None)
        updater.refresh()
        for name in given.target_name:
            fetch(
                updater, server, name, given.target_base_url.rstrip("/"), Path(given.target_dir), folder / "downloads"
            )
    except (RepositoryError, DownloadError, SdkError, OSError) as refused:
        print(f"{type(refused).__name__}: {refused}", file=sys.stderr)
        return 1
    return 0


def fetch(updater: Updater, server: WebServer, name: str, base: str, into: Path, partly: Path) -> None:
    """Put one target into a folder, by this project's own download, which keeps what came partly in another one."""
    target = updater.get_targetinfo(name)
    if target is None:
        raise RepositoryError(f"there is no target {name}")
    sha256 = target.hashes.get("sha256")
    place = into / quote(name, "")
    if updater.find_cached_target(target, str(place)):
        return
    if sha256 is None or set(target.hashes) != {"sha256"}:  # The project's own releases have SHA-256 alone.
        updater.download_target(target, str(place), base)
        return
    folder, separator, file = name.rpartition("/")
    served = f"{folder}{separator}{sha256}.{file}" if updater._trusted_set.root.consistent_snapshot else name
    partly.mkdir(exist_ok=True)
    download(server, f"{base}/{served}", partly, sha256=sha256, size=target.length, patience=PATIENCE).replace(place)


if __name__ == "__main__":
    sys.exit(main())
