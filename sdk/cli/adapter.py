"""The commands for adapters: which there are, which answers, sums of them, other devices, a new base."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.options import (
    Tell,
    adapter_option,
    answer,
    engine_option,
    home_option,
    json_option,
    passphrase,
    passphrase_option,
    risk_option,
    shown_progress,
)
from sdk.cli.signals import stop_when_asked

if TYPE_CHECKING:
    from personalize.learner import Base

__all__ = ["adapter"]

base_option = click.option(
    "--base",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of the base bundle. [LIMBECK_BASE, else the shipped or the cached one]",
)


@click.group()
def adapter() -> None:
    """Adapters of a home: one for each app or task, each with its own history."""


@adapter.command("list")
@home_option
@json_option
def listing(home: Path | None, as_json: bool) -> None:
    """Say which adapters there are, which one answers, and what each carries from other devices."""
    from personalize import Home
    from personalize.exchange import listed

    rows = listed(Home.open(home))
    answer({"adapters": rows}, "\n".join(_row(row) for row in rows), as_json=as_json)


def _row(row: dict[str, Any]) -> str:
    mark = "*" if row["chosen"] else " "
    carried = (row["label"] or {}).get("carried", [])
    spent = ", ".join(f"{charge['epsilon']:.3f}" for charge in carried)
    other = f"; records of other devices were charged epsilon {spent}" if spent else ""
    before = len(row["before"])
    return f"{mark} {row['name']}  {row['in_use'] or 'the bare base'}, {before} before it{other}"


@adapter.command()
@click.argument("name")
@home_option
@json_option
def use(name: str, home: Path | None, as_json: bool) -> None:
    """Let the adapter NAME learn and answer where none is named. A new NAME begins at the bare base."""
    from personalize import Home
    from personalize.shelf import Shelf

    place = Home.open(home)
    with place.lock():
        shelf = Shelf(place, name)
        shelf.select()
    answer(
        {"name": name, "in_use": shelf.in_use},
        f"{name} answers now: {shelf.in_use or 'the bare base'}",
        as_json=as_json,
    )


@adapter.command()
@adapter_option
@home_option
@json_option
def rollback(line: str | None, home: Path | None, as_json: bool) -> None:
    """Put what was in use before back in use. Nothing is spent and nothing is refunded."""
    from personalize import Home
    from personalize.shelf import Shelf

    place = Home.open(home)
    with place.lock():
        shelf = Shelf(place, line)
        before = shelf.roll_back()
    answer(
        {"name": shelf.name, "in_use": before},
        f"{shelf.name} is back at {before or 'the bare base'}",
        as_json=as_json,
    )


@adapter.command()
@risk_option
@click.option("--most", type=click.IntRange(60), help="Take so many of the public tasks. [all]")
@click.option(
    "--samples",
    type=click.IntRange(0, 16),
    default=0,
    show_default=True,
    help="Draw so many further answers to each, also later, and weigh how far they agree.",
)
@adapter_option
@engine_option
@home_option
@json_option
def calibrate(
    risk: float, most: int | None, samples: int, line: str | None, engine: str, home: Path | None, as_json: bool
) -> None:
    """Measure again, with adapter and engine that answer, when an answer is sure enough to stay on the device.

    Takes minutes: a few hundred public tasks are answered. Costs no privacy budget. Ctrl-C keeps what held before.
    """
    from personalize import Home
    from sdk.build.package import open_base
    from sdk.device.assistant import Assistant
    from sdk.device.handoff.recalibrate import recalibrate

    with shown_progress() as tell, stop_when_asked() as stop:
        bundle = open_base(lambda step, done: tell(step, round(100 * done), 100), home=home)
        place = Home.open(home)
        assistant = Assistant.open(place.path, bundle=bundle, line=line, engine=engine)
        made = recalibrate(assistant, place, risk=risk, most=most, samples=samples, stop=stop, progress=tell)
    if made is None:
        click.echo("stopped; what held before holds", err=True)
        raise click.exceptions.Exit(130)
    answer(json.loads(made.to_json()), made.kept_share(), as_json=as_json)


@adapter.command()
@click.argument("parts", nargs=-1, required=True, metavar="NAME[=WEIGHT]...")
@click.option("--into", required=True, help="Name of the adapter that takes the sum; may be new.")
@click.option("--rank", type=click.IntRange(1, 1024), help="Rank of the sum. [the largest of the parts]")
@click.option("--exact", is_flag=True, help="Let the rank grow until nothing is lost.")
@base_option
@home_option
@json_option
def merge(
    parts: tuple[str, ...],
    into: str,
    rank: int | None,
    exact: bool,
    base: Path | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Sum adapters by weight, and use the sum if it passes the gate. Without weights all count the same."""
    if exact and rank:
        raise click.UsageError("--rank and --exact were given; choose one")
    weights = _weights(parts)
    from personalize import Home
    from personalize.exchange import merge_lines

    place = Home.open(home)
    with shown_progress() as tell:
        made = merge_lines(place, _base(base, tell, home), weights, into=into, rank=rank, exact=exact, progress=tell)
    lost = f"; rank {made.facts['rank']} holds all but {made.facts['lost']:.1%} of the sum"
    answer(made.to_dict(), made.summary() + lost, as_json=as_json)


def _weights(parts: tuple[str, ...]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in parts:
        name, separator, weight = part.partition("=")
        try:
            value = float(weight) if separator else 1.0 / len(parts)
        except ValueError as cause:
            raise click.UsageError(f"{part!r} is no NAME=WEIGHT, such as work=0.5") from cause
        if name in weights:
            raise click.UsageError(f"{name} was named twice; add its weights up")
        weights[name] = value
    return weights


@adapter.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@adapter_option
@passphrase_option
@base_option
@home_option
@json_option
def export(
    file: Path,
    line: str | None,
    passphrase_file: Path | None,
    base: Path | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Write the adapter to an encrypted FILE, for another device of the same person. FILE must not exist."""
    from personalize import Home
    from personalize.exchange import send_out
    from sdk.bundle import Bundle, default_bundle

    place, bundle = Home.open(home), Bundle.open(base) if base else default_bundle(home)
    secret = passphrase(passphrase_file, confirm=True)
    sent = send_out(place, file, base_digest=bundle.base_digest, passphrase=secret, line=line)
    answer(sent, f"wrote {sent['in_use']} to {file}; without the passphrase nobody can open it", as_json=as_json)


@adapter.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@adapter_option
@passphrase_option
@base_option
@home_option
@json_option
def importing(
    file: Path,
    line: str | None,
    passphrase_file: Path | None,
    base: Path | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Open a FILE that `adapter export` wrote, and use its adapter if it passes this device's gate."""
    from personalize import Home
    from personalize.exchange import bring_in
    from personalize.parcel import header_of
    from sdk.bundle import Bundle, default_bundle

    place, bundle = Home.open(home), Bundle.open(base) if base else default_bundle(home)
    header_of(file, base_digest=bundle.base_digest)  # What can be refused is refused before anything is typed.
    secret = passphrase(passphrase_file, confirm=False)
    with shown_progress() as tell:
        made = bring_in(place, _base(base, tell, home), file, passphrase=secret, into=line, progress=tell)
    answer(made.to_dict(), made.summary(), as_json=as_json)


@adapter.command()
@click.option(
    "--from",
    "old",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    required=True,
    help="Folder of the base bundle that the adapter was learned on.",
)
@adapter_option
@base_option
@home_option
@json_option
def migrate(old: Path, line: str | None, base: Path | None, home: Path | None, as_json: bool) -> None:
    """Carry the adapter over to a new base on public text alone: keep, distil or drop it. Costs no budget."""
    from personalize import Home
    from personalize.exchange import carry_over
    from sdk.bundle import Bundle
    from sdk.device.night import base_of

    place = Home.open(home)
    with shown_progress() as tell:
        made = carry_over(place, base_of(Bundle.open(old)), _base(base, tell, home), line=line, progress=tell)
    kept = ""
    if "kept" in made.facts:
        kept = (
            f"; {made.facts['kept']:.0%} of its effect on public and written text survived, on yours was not measured"
        )
    answer(made.to_dict(), made.summary() + kept, as_json=as_json)


def _base(folder: Path | None, tell: Tell, home: Path | None) -> "Base":
    """A loaded base: the one in `folder`, else the default one, built into the cache if it is missing."""
    from personalize import Home
    from sdk.build.package import open_base
    from sdk.bundle import Bundle
    from sdk.device.night import base_of

    bundle = (
        Bundle.open(folder) if folder else open_base(lambda step, done: tell(step, round(100 * done), 100), home=home)
    )
    return base_of(bundle, home=Home.open(home).path)
