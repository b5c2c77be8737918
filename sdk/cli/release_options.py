"""What the release managers' commands share: options, a repository that is held, and how a change is answered."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.options import answer, json_option, passphrase

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sdk.release.repository import Repository
    from sdk.release.request import Request

__all__ = [
    "CHANNEL",
    "FILE",
    "FOLDER",
    "answer_change",
    "answer_request",
    "channel_option",
    "dry_option",
    "key_option",
    "one_version",
    "opened",
    "per10k_of",
    "secret_of",
]

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
CHANNEL = click.Choice(["stable", "testing", "adapters"])

channel_option = click.option("--channel", type=CHANNEL, default="stable", show_default=True, help="Which devices.")
dry_option = click.option("--dry-run", "dry", is_flag=True, help="Say what devices would see; change nothing.")
key_option = click.option("--key", "key_file", type=FILE, required=True, help="The server's online key, NAME.key.")


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


def opened(folder: Path) -> "AbstractContextManager[Repository]":
    """The repository in `folder`, locked."""
    from sdk.release import repository

    return repository.Repository.open(folder).locked()


def per10k_of(percent: float) -> int:
    """Percent in ten-thousandths, which is what is signed."""
    per10k = round(percent * 100)
    if abs(per10k - percent * 100) > 1e-6:
        raise click.UsageError(f"{percent} % is no multiple of 0.01 %; a smaller share cannot be signed")
    return per10k


def secret_of(file: Path | None) -> Callable[[str], str]:
    """Asks for what opens a key: the passphrase of a file, or the PIN of a token."""

    def ask(what: str) -> str:
        if what != "passphrase":
            typed: str = click.prompt(what.upper(), hide_input=True, err=True)
            return typed
        return passphrase(file, confirm=False)

    return ask


def answer_change(change: "Callable[..., Request]", repository: Path, *, dry: bool, as_json: bool, **what: Any) -> None:
    """Make a change that waits for signatures, and say what it is.

    Args:
        change: Of sdk.release, given the repository, the time, `dry` and `what`.
        repository: Its folder.
        dry: Whether only to say it.
        as_json: For scripts.
        what: Which version, and what about it.
    """
    from sdk.release.repository import now_utc

    with opened(repository) as place:
        request = change(place, now=now_utc(), dry=dry, **what)
    answer_request(request, repository, dry=dry, as_json=as_json)


def answer_request(
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
