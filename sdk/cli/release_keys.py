"""The release managers' keys: made, put in charge of a new repository, changed."""

from pathlib import Path

import click

from sdk.cli.options import answer, json_option, passphrase, passphrase_option
from sdk.cli.release_options import FILE, FOLDER, answer_request, dry_option, opened, secret_of

__all__ = ["init", "keygen", "rotate"]

ROLES = ("root", "targets", "stable", "testing", "adapters", "online")


@click.command()
@click.argument("name")
@click.option("--folder", type=FOLDER, default=Path(), help="Where NAME.key and NAME.pub go. [here]")
@click.option("--token", is_flag=True, help="The key stays in a PKCS#11 token (PYKCS11LIB); NAME.key is its address.")
@click.option("--slot", type=click.IntRange(0), help="With --token: the key's place in it. [2]")
@passphrase_option
@dry_option
@json_option
def keygen(
    name: str, folder: Path, token: bool, slot: int | None, passphrase_file: Path | None, dry: bool, as_json: bool
) -> None:
    """Make a signing key for NAME: NAME.key stays with its holder, NAME.pub goes to whoever runs `release init`."""
    from sdk.release.keys import import_token, make_key, public_key

    if token:
        private, public = import_token(name, folder, keyid=slot, pin=secret_of(None), dry=dry)
    else:
        private, public = make_key(name, folder, passphrase=passphrase(passphrase_file, confirm=True), dry=dry)
    keyid = None if dry else public_key(public).keyid
    line = f"{private} stays with {name}; give {public} to whoever begins the repository (key {str(keyid)[:8]})"
    if dry:
        line = f"{private} and {public} would be written\ndry run: nothing changed"
    answer({"private": str(private), "public": str(public), "keyid": keyid}, line, as_json=as_json)


@click.command()
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
    answer_request(request, repository, dry=dry, as_json=as_json)


@click.command()
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
    with opened(repository) as place:
        request = change_keys(
            place,
            roles=roles or roles_of(place, removed),
            add=[public_key(file) for file in added],
            remove=removed,
            threshold=threshold,
            now=now_utc(),
            dry=dry,
        )
    answer_request(request, repository, dry=dry, as_json=as_json)
