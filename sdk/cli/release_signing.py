"""A change that waits is signed by its managers and published; a version is written to a file that is carried."""

from pathlib import Path

import click

from sdk.cli.options import answer, json_option, passphrase_option
from sdk.cli.release_options import (
    FILE,
    FOLDER,
    answer_request,
    channel_option,
    dry_option,
    key_option,
    opened,
    secret_of,
)

__all__ = ["bundle", "publish", "sign"]


@click.command()
@click.argument("request_file", metavar="FILE", type=FILE)
@click.option("--key", "key_file", type=FILE, required=True, help="Your NAME.key.")
@click.option("--bundle", type=FOLDER, help="The bundle that you looked at; refuse to sign any other.")
@click.option("--yes", is_flag=True, help="Do not ask after showing what is signed.")
@passphrase_option
@dry_option
@json_option
def sign(
    request_file: Path,
    key_file: Path,
    bundle: Path | None,
    yes: bool,
    passphrase_file: Path | None,
    dry: bool,
    as_json: bool,
) -> None:
    """Sign FILE, a repository's waiting.json or a copy of it, on your own machine. First it says what that does."""
    from sdk.release import sign as signing
    from sdk.release.keys import open_key
    from sdk.release.payload import open_payload
    from sdk.release.request import read_request, write_request

    request = read_request(request_file)
    if bundle is not None:
        signing.check_bundle(request, open_payload(bundle))
    for line in request.words():
        click.echo(line, err=True)
    if not dry:
        if not yes:
            click.confirm("Sign this?", abort=True, err=True)
        key = open_key(key_file, secret_of(passphrase_file))
        signing.check_known_root(request, key_file)
        signing.sign(request, key)
        write_request(request_file, request)
    answer_request(request, None, dry=dry, as_json=as_json, said=True)


@click.command()
@click.argument("repository", type=FOLDER)
@click.argument("files", metavar="[FILE]...", type=FILE, nargs=-1)
@key_option
@passphrase_option
@dry_option
@json_option
def publish(
    repository: Path,
    files: tuple[Path, ...],
    key_file: Path,
    passphrase_file: Path | None,
    dry: bool,
    as_json: bool,
) -> None:
    """Let devices see what waits, once enough have signed; FILEs are signed copies that came back.

    Where nothing waits it renews the dates, which a server does once a day.
    """
    from sdk.release import publish as publishing
    from sdk.release.keys import open_key
    from sdk.release.repository import now_utc

    with opened(repository) as place:
        key = open_key(key_file, secret_of(passphrase_file))
        done = publishing.publish(place, key, files, now=now_utc(), dry=dry)
    facts = {
        "published": not dry,
        "words": list(done.words),
        "versions": done.versions,
        "valid_until": done.valid_until.isoformat(),
    }
    lines = [*done.words] or ["nothing waited; the dates are renewed"]
    lines.append(
        f"{'devices would accept' if dry else 'devices accept'} this until {done.valid_until:%Y-%m-%d %H:%M} UTC"
    )
    answer(facts, "\n".join(lines), as_json=as_json)


@click.command()
@click.argument("repository", type=FOLDER)
@click.argument("file", type=FILE)
@click.argument("name")
@channel_option
@click.option("--version", help="Which version. [the newest that is not stopped]")
@click.option("--days", type=click.IntRange(1, 365), default=30, show_default=True, help="How long devices accept it.")
@key_option
@passphrase_option
@dry_option
@json_option
def bundle(
    repository: Path,
    file: Path,
    name: str,
    channel: str,
    version: str | None,
    days: int,
    key_file: Path,
    passphrase_file: Path | None,
    dry: bool,
    as_json: bool,
) -> None:
    """Write FILE, which carries a version of NAME to devices without a network."""
    from sdk.release.keys import open_key
    from sdk.release.offline import write_offline
    from sdk.release.repository import now_utc

    with opened(repository) as place:
        key = open_key(key_file, secret_of(passphrase_file))
        carried = write_offline(
            place, key, file, channel=channel, name=name, version=version, days=days, now=now_utc(), dry=dry
        )
    facts = {"file": str(file), "name": name, "version": carried.version, "manifest": carried.manifest, "days": days}
    line = f"{file} {'would carry' if dry else 'carries'} {name} {carried.version}; devices accept it for {days} days"
    answer(facts, line, as_json=as_json)
