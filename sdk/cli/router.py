"""When to hand a question on: the maker's calibration of it, and the person's consent to it."""

import json
from pathlib import Path

import click

from sdk.cli.options import answer, home_option, json_option, risk_option, shown_progress

__all__ = ["consent", "router"]

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("model", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--tasks", required=True, type=FILE, help="Held-out device tasks, which the model has not learned from.")
@click.option("--out", required=True, type=FILE, help="The router.json; the rated answers are kept beside it.")
@risk_option
@click.option("--most", type=click.IntRange(60), help="Take so many of the tasks. [all]")
@json_option
def router(model: Path, tasks: Path, out: Path, risk: float, most: int | None, as_json: bool) -> None:
    """Calibrate when the small model's answer is kept and when a larger one may be asked. MODEL: folder or bundle.

    Ctrl-C keeps the answers so far; the same call goes on from there.
    """
    from sdk.build.router import make_router, words_of  # Imports torch.

    with shown_progress() as tell:
        made = make_router(model, tasks, out=out, risk=risk, most=most, progress=tell)
    answer({"out": str(out), **json.loads(made.to_json())}, f"{words_of(made)}\nin {out}", as_json=as_json)


@click.group()
def consent() -> None:
    """What may leave this device when the small model is not sure. Nothing does by default."""


@consent.command()
@home_option
@json_option
def show(home: Path | None, as_json: bool) -> None:
    """Say what was consented to."""
    _answer(home, as_json=as_json)


@consent.command()
@click.argument("kind")
@home_option
@json_option
def allow(kind: str, home: Path | None, as_json: bool) -> None:
    """Let requests of KIND, such as summary, leave without being asked each time; redacted all the same."""
    _answer(home, kind=kind, said="allow", as_json=as_json)


@consent.command()
@click.argument("kind")
@home_option
@json_option
def deny(kind: str, home: Path | None, as_json: bool) -> None:
    """Keep requests of KIND here, whatever the answer for all kinds is."""
    _answer(home, kind=kind, said="deny", as_json=as_json)


@consent.command()
@click.argument("kind")
@home_option
@json_option
def forget(kind: str, home: Path | None, as_json: bool) -> None:
    """Forget the answer for KIND: the one for all kinds holds for it again."""
    _answer(home, kind=kind, as_json=as_json)


@consent.command()
@home_option
@json_option
def ask(home: Path | None, as_json: bool) -> None:
    """Nothing leaves unless you permit the request you are shown. This is how a new home begins."""
    _answer(home, standing="ask", as_json=as_json)


@consent.command()
@home_option
@json_option
def always(home: Path | None, as_json: bool) -> None:
    """Let every request that the small model cannot answer leave, redacted, but for denied kinds."""
    _answer(home, standing="always", as_json=as_json)


@consent.command()
@home_option
@json_option
def never(home: Path | None, as_json: bool) -> None:
    """Nothing leaves, allowed kinds included, and nobody is asked."""
    _answer(home, standing="never", as_json=as_json)


def _answer(
    home: Path | None, *, kind: str | None = None, said: str | None = None, standing: str | None = None, as_json: bool
) -> None:
    """Change one answer, if any, and print them all."""
    from personalize import Home
    from sdk.device.handoff.consent import Consent

    now = Consent.open(Home.open(home))
    if kind is not None:
        now = now.with_kind(kind, said)  # type: ignore[arg-type]  # Each command passes one of the words.
    if standing is not None:
        now = now.with_standing(standing)  # type: ignore[arg-type]
    answer(now.to_dict(), now.summary(), as_json=as_json)
