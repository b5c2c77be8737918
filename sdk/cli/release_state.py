"""How a repository stands, and whether a device would accept all of it."""

from pathlib import Path

import click

from sdk.cli.options import answer, json_option, shown_progress
from sdk.cli.release_options import FILE, FOLDER

__all__ = ["status", "verify"]


@click.command()
@click.argument("repository", type=FOLDER)
@click.option("--page", type=FILE, help="Where an HTML page of the same goes.")
@json_option
def status(repository: Path, page: Path | None, as_json: bool) -> None:
    """Say what devices see, what waits, whose signatures are missing, and what expires when."""
    from sdk.release import repository as store
    from sdk.release.page import write_page
    from sdk.release.status import status as state
    from sdk.release.status import words

    place, now = store.Repository.open(repository), store.now_utc()
    facts = state(place, now)
    if page is not None:
        write_page(place, page, now)
        facts["page"] = str(page)
    answer(facts, words(facts), as_json=as_json)


@click.command()
@click.argument("source")
@click.option("--root", type=FILE, help="The root that devices have. [1.root.json of the folder]")
@json_option
def verify(source: str, root: Path | None, as_json: bool) -> None:
    """Read SOURCE as devices do, and every file in it: a repository's folder, an address, or an offline file."""
    from sdk.release.repository import first_root, served_folder
    from sdk.release.verify import verify as read_all

    trusted = first_root(source, root)
    with shown_progress() as tell:
        found = read_all(served_folder(source), trusted, progress=tell)
    facts = {
        "versions": found.versions,
        "files": found.files,
        "bytes": found.bytes,
        "valid_until": found.valid_until.isoformat(),
        "offered": {
            channel: {name: [each.version for each in catalogue.releases] for name, catalogue in products.items()}
            for channel, products in found.catalogues.items()
        },
    }
    line = (
        f"verified as a device would: {found.files} files, {found.bytes / 1e6:.1f} MB; "
        f"valid until {found.valid_until:%Y-%m-%d %H:%M} UTC"
    )
    answer(facts, line, as_json=as_json)
