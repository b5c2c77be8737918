"""The release managers' commands: keys, changes, signatures, publication; devices see nothing that too few signed."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.options import answer, json_option, passphrase, passphrase_option, shown_progress

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sdk.release.repository import Repository
    from sdk.release.request import Request

__all__ = ["release"]

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
CHANNEL = click.Choice(["stable", "testing", "adapters"])
ROLES = ("root", "targets", "stable", "testing", "adapters", "online")

channel_option = click.option("--channel", type=CHANNEL, default="stable", show_default=True, help="Which devices.")
dry_option = click.option("--dry-run", "dry", is_flag=True, help="Say what devices would see; change nothing.")
key_option = click.option("--key", "key_file", type=FILE, required=True, help="The server's online key, NAME.key.")
percent_option = click.option(
    "--percent", type=click.FloatRange(0, 100), required=True, help="Share of devices, in steps of 0.01."
)


def one_version(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which version of which model, in which repository and for which devices."""
    parts = (
        click.argument("repository", type=FOLDER),
        click.argument("name"),
        click.argument("version"),
        channel_option,
        dry_option,
        json_option,
    )
    for part in reversed(parts):
        command = part(command)
    return command


@click.group()
def release() -> None:
    """Sign and publish models, the way an operating system's updates are."""


@release.command()
@click.argument("name")
@click.option("--folder", type=FOLDER, default=Path(), help="Where NAME.key and NAME.pub go. [here]")
@click.option("--token", is_flag=True, help="The key stays in a PKCS#11 token (PYKCS11LIB); NAME.key is its address.")
@click.option("--slot", type=click.IntRange(0), help="With --token: the key's place in it. [2]")
@passphrase_option
@json_option
def keygen(name: str, folder: Path, token: bool, slot: int | None, passphrase_file: Path | None, as_json: bool) -> None:
    """Make a signing key for NAME: NAME.key stays with its holder, NAME.pub goes to whoever runs `release init`."""
    from sdk.release.keys import import_token, make_key, public_key

    if token:
        private, public = import_token(name, folder, keyid=slot, pin=_secret(None))
    else:
        private, public = make_key(name, folder, passphrase=passphrase(passphrase_file, confirm=True))
    keyid = public_key(public).keyid
    answer(
        {"private": str(private), "public": str(public), "keyid": keyid},
        f"{private} stays with {name}; give {public} to whoever begins the repository (key {keyid[:8]})",
        as_json=as_json,
    )


@release.command()
@click.argument("repository", type=FOLDER)
@click.option("--root", "root_keys", type=FILE, multiple=True, required=True, help="NAME.pub who may change keys.")
@click.option("--targets", "targets_keys", type=FILE, multiple=True, help="NAME.pub who may release. [those of --root]")
@click.option("--online", "online_key", type=FILE, required=True, help="NAME.pub of the server's own key.")
@click.option("--root-threshold", type=click.IntRange(1), default=2, show_default=True, help="Signatures for keys.")
@click.option("--targets-threshold", type=click.IntRange(1), default=2, show_default=True, help="To release to stable.")
@click.option("--testing-threshold", type=click.IntRange(1), help="To release to testing. [as for stable]")
@dry_option
@json_option
def init(
    repository: Path,
    root_keys: tuple[Path, ...],
    targets_keys: tuple[Path, ...],
    online_key: Path,
    root_threshold: int,
    targets_threshold: int,
    testing_threshold: int | None,
    dry: bool,
    as_json: bool,
) -> None:
    """Begin a repository: its first metadata wait for signatures in REPOSITORY/waiting.json."""
    from sdk.release.keys import public_key
    from sdk.release.repository import now_utc
    from sdk.release.rotate import begin

    thresholds = dict.fromkeys(("targets", "stable", "testing", "adapters"), targets_threshold)
    thresholds |= {"root": root_threshold, "testing": testing_threshold or targets_threshold}
    request = begin(
        repository,
        root=[public_key(file) for file in root_keys],
        targets=[public_key(file) for file in targets_keys or root_keys],
        online=public_key(online_key),
        thresholds=thresholds,
        now=now_utc(),
        dry=dry,
    )
    _answer_request(request, repository, dry=dry, as_json=as_json)


@release.command()
@click.argument("repository", type=FOLDER)
@click.argument("bundle", type=FOLDER)
@channel_option
@click.option("--percent", type=click.FloatRange(0, 100), default=1.0, show_default=True, help="Of devices at first.")
@click.option("--delta-from", type=FOLDER, multiple=True, help="An older bundle that devices have. Repeatable.")
@click.option("--needs-sdk", metavar="VERSION", help="Oldest limbeck that may take it.")
@click.option("--needs-memory-mb", type=click.IntRange(1), help="Least memory of a machine.")
@click.option("--needs-hardware", multiple=True, metavar="NAME", help="Kind of machine, such as arm64. Repeatable.")
@click.option("--most-loss", type=click.FloatRange(0.5, 10), default=1.05, show_default=True, help="New over old.")
@click.option("--least-agreement", type=click.FloatRange(0, 100), default=0.0, help="Percent of next tokens. [0]")
@click.option("--check-seconds", type=click.IntRange(1, 86_400), default=300, show_default=True, help="Of the trial.")
@click.option("--check-memory-mb", type=click.IntRange(64), default=4_096, show_default=True, help="Of the trial.")
@click.option("--name", help="Of an adapter: its product.")
@click.option("--version", help="Of an adapter.")
@click.option("--licence", default="", help="Of an adapter: SPDX identifier.")
@click.option("--origin", default="", help="Of an adapter: what it was learned from.")
@dry_option
@json_option
def add(
    repository: Path,
    bundle: Path,
    channel: str,
    percent: float,
    delta_from: tuple[Path, ...],
    needs_sdk: str | None,
    needs_memory_mb: int | None,
    needs_hardware: tuple[str, ...],
    most_loss: float,
    least_agreement: float,
    check_seconds: int,
    check_memory_mb: int,
    name: str | None,
    version: str | None,
    licence: str,
    origin: str,
    dry: bool,
    as_json: bool,
) -> None:
    """Offer BUNDLE, a bundle or an adapter's folder, as the newest version; it waits for signatures."""
    from sdk.catalogue import Health, Requirements
    from sdk.release.offers import Offer, add_with_deltas
    from sdk.release.payload import open_payload
    from sdk.release.repository import now_utc

    payload = open_payload(bundle, name=name, version=version, licence=licence, origin=origin)
    offer = Offer(
        per10k=_per10k(percent),
        requires=Requirements(
            sdk=needs_sdk,
            memory_mb=needs_memory_mb,
            hardware=needs_hardware,
            base_digest=payload.base_digest if payload.kind == "adapter" else None,
        ),
        health=Health(
            loss_ratio_ppm=round(most_loss * 1_000_000),
            agreement_per10k=_per10k(least_agreement),
            seconds=check_seconds,
            memory_mb=check_memory_mb,
        ),
    )
    with _opened(repository) as place, shown_progress() as tell:
        request = add_with_deltas(
            place, payload, offer, delta_from, channel=channel, now=now_utc(), dry=dry, progress=tell
        )
    _answer_request(request, repository, dry=dry, as_json=as_json)


@release.command()
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
        key = open_key(key_file, _secret(passphrase_file))
        signing.check_known_root(request, key_file)
        signing.sign(request, key)
        write_request(request_file, request)
    _answer_request(request, None, dry=dry, as_json=as_json, said=True)


@release.command()
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

    with _opened(repository) as place:
        key = open_key(key_file, _secret(passphrase_file))
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


@release.group()
def rollout() -> None:
    """Let a version reach more devices, fewer, or none."""


@rollout.command("set")
@percent_option
@one_version
def set_(repository: Path, name: str, version: str, percent: float, channel: str, dry: bool, as_json: bool) -> None:
    """Let VERSION of NAME reach a share of devices; it waits for signatures."""
    _roll_out(repository, name, version, _per10k(percent), channel, dry=dry, as_json=as_json)


@rollout.command()
@one_version
def stop(repository: Path, name: str, version: str, channel: str, dry: bool, as_json: bool) -> None:
    """Let VERSION of NAME reach nobody any more; devices that have it keep it. It waits for signatures."""
    _roll_out(repository, name, version, 0, channel, dry=dry, as_json=as_json)


@rollout.command()
@one_version
def minimum(repository: Path, name: str, version: str, channel: str, dry: bool, as_json: bool) -> None:
    """Let devices below VERSION of NAME move on at once, whatever the rollout; it waits for signatures."""
    from sdk.release.offers import raise_minimum
    from sdk.release.repository import now_utc

    with _opened(repository) as place:
        request = raise_minimum(place, channel=channel, name=name, version=version, now=now_utc(), dry=dry)
    _answer_request(request, repository, dry=dry, as_json=as_json)


@release.command()
@one_version
def revoke(repository: Path, name: str, version: str, channel: str, dry: bool, as_json: bool) -> None:
    """Take VERSION of NAME back: devices that have it leave it at once. It waits for signatures."""
    from sdk.release.offers import revoke as take_back
    from sdk.release.repository import now_utc

    with _opened(repository) as place:
        request = take_back(place, channel=channel, name=name, version=version, now=now_utc(), dry=dry)
    _answer_request(request, repository, dry=dry, as_json=as_json)


@release.command()
@click.argument("repository", type=FOLDER)
@click.option("--role", "roles", type=click.Choice(ROLES), multiple=True, help="Whose keys. [where --remove signs]")
@click.option("--add", "added", type=FILE, multiple=True, help="NAME.pub who may sign from now on. Repeatable.")
@click.option("--remove", "removed", multiple=True, metavar="NAME", help="Who may sign no more. Repeatable.")
@click.option("--threshold", type=click.IntRange(1), help="Signatures needed from now on. [as before]")
@dry_option
@json_option
def rotate(
    repository: Path,
    roles: tuple[str, ...],
    added: tuple[Path, ...],
    removed: tuple[str, ...],
    threshold: int | None,
    dry: bool,
    as_json: bool,
) -> None:
    """Change who may sign; without a change, renew what is about to expire. It waits for signatures."""
    from sdk.release.keys import public_key
    from sdk.release.repository import now_utc
    from sdk.release.rotate import roles_of
    from sdk.release.rotate import rotate as change_keys

    if not roles and not removed:
        raise click.UsageError("say what: --role ROLE to renew it or change its keys, or --remove NAME")
    with _opened(repository) as place:
        request = change_keys(
            place,
            roles=roles or roles_of(place, removed),
            add=[public_key(file) for file in added],
            remove=removed,
            threshold=threshold,
            now=now_utc(),
            dry=dry,
        )
    _answer_request(request, repository, dry=dry, as_json=as_json)


@release.command()
@click.argument("old", type=FOLDER)
@click.argument("new", type=FOLDER)
@click.option("--out", type=FILE, required=True, help="Where the delta goes.")
@json_option
def delta(old: Path, new: Path, out: Path, as_json: bool) -> None:
    """Write what turns bundle OLD into bundle NEW, applied and compared; `add --delta-from` does it by itself."""
    from dataclasses import asdict

    from sdk.bundle import Bundle
    from sdk.release.delta import make_delta

    with shown_progress() as tell:
        made = make_delta(Bundle.open(old), Bundle.open(new), out, progress=tell)
    line = f"{out}: {made.bytes / 1e6:.2f} MB instead of {made.bundle_bytes / 1e6:.2f} MB; applied and compared"
    answer({"file": str(out), **asdict(made)}, line, as_json=as_json)


@release.command()
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

    with _opened(repository) as place:
        key = open_key(key_file, _secret(passphrase_file))
        carried = write_offline(
            place, key, file, channel=channel, name=name, version=version, days=days, now=now_utc(), dry=dry
        )
    facts = {"file": str(file), "name": name, "version": carried.version, "manifest": carried.manifest, "days": days}
    line = f"{file} {'would carry' if dry else 'carries'} {name} {carried.version}; devices accept it for {days} days"
    answer(facts, line, as_json=as_json)


@release.command()
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


@release.command()
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


def _roll_out(
    repository: Path, name: str, version: str, per10k: int, channel: str, *, dry: bool, as_json: bool
) -> None:
    from sdk.release.offers import roll_out
    from sdk.release.repository import now_utc

    with _opened(repository) as place:
        request = roll_out(place, channel=channel, name=name, version=version, per10k=per10k, now=now_utc(), dry=dry)
    _answer_request(request, repository, dry=dry, as_json=as_json)


def _opened(folder: Path) -> "AbstractContextManager[Repository]":
    """The repository in `folder`, locked."""
    from sdk.release import repository

    return repository.Repository.open(folder).locked()


def _per10k(percent: float) -> int:
    """Percent in ten-thousandths, which is what is signed."""
    per10k = round(percent * 100)
    if abs(per10k - percent * 100) > 1e-6:
        raise click.UsageError(f"{percent} % is no multiple of 0.01 %; a smaller share cannot be signed")
    return per10k


def _secret(file: Path | None) -> Callable[[str], str]:
    """Asks for what opens a key: the passphrase of a file, or the PIN of a token."""

    def ask(what: str) -> str:
        if what != "passphrase":
            typed: str = click.prompt(what.upper(), hide_input=True, err=True)
            return typed
        return passphrase(file, confirm=False)

    return ask


def _answer_request(
    request: "Request", repository: Path | None, *, dry: bool, as_json: bool, said: bool = False
) -> None:
    """Say what waits and whose signatures are missing."""
    found, words = request.signatures(), request.words()
    facts = {
        "changed": sorted(request.changed),
        "words": words,
        "missing": {each.role: {"needed": each.needed, "of": list(each.open)} for each in found if each.needed},
        "waiting": None if dry or repository is None else str(repository / "waiting.json"),
    }
    lines = ([] if said else words) + [each.words() for each in found]
    if dry:
        lines.append("dry run: nothing changed")
    elif repository is not None:
        lines.append(f"send {repository / 'waiting.json'} round: `limbeck release sign FILE --key NAME.key`")
    answer(facts, "\n".join(lines), as_json=as_json)
