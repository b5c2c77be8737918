"""The commands of a device: signed updates of the base and of what goes with it, installed, tried, taken back."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.options import Tell, answer, home_option, json_option, shown_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sdk.device.extend import Additions, Extended
    from sdk.device.install import Outcome, Updates

__all__ = ["device"]


@click.group()
def device() -> None:
    """Signed updates of this device's base model, and of what goes with it."""


def source_options(command: "Callable[..., Any]") -> "Callable[..., Any]":
    """Where updates come from; needed once, remembered in the home."""
    options = (
        click.option("--repository", help="Address of the release repository. [as before]"),
        click.option("--root", type=click.Path(path_type=Path, dir_okay=False), help="Its root.json. [as before]"),
        click.option("--product", help="Name of the bundles, or of an extra. [the active base]"),
        click.option(
            "--channel", default="stable", show_default=True, help="stable or testing; adapters for an extra."
        ),
        click.option("--from", "carried", type=click.Path(path_type=Path, dir_okay=False), help="An offline file."),
        click.option("--force-check", is_flag=True, help="Do not wait for the rollout to reach this device."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@device.command()
@source_options
@home_option
@json_option
def check(
    repository: str | None,
    root: Path | None,
    product: str | None,
    channel: str,
    carried: Path | None,
    force_check: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """Say what could be installed, and why it is or is not for this device. Installs nothing."""
    updates = _followed(home, (), repository, root, product, channel)
    if name := _extra(product, channel):
        _answer_extra(_additions(updates).check(name, force=force_check, carried=carried), as_json=as_json)
        return
    _answer(updates.check(force=force_check, carried=carried), as_json=as_json)


@device.command()
@source_options
@click.option("--policy", multiple=True, metavar="NAME=VALUE", help="Move a limit, such as metered=yes or charger=yes.")
@home_option
@json_option
def install(
    repository: str | None,
    root: Path | None,
    product: str | None,
    channel: str,
    carried: Path | None,
    force_check: bool,
    policy: tuple[str, ...],
    home: Path | None,
    as_json: bool,
) -> None:
    """Fetch, verify and try the newest release for this device; switch to it if it passes. Ctrl-C loses nothing.

    Then the same for every extra that is installed. With --channel adapters --product NAME: that extra alone.
    """
    updates = _followed(home, policy, repository, root, product, channel)
    with shown_progress() as tell:
        told, additions = _in_kilobytes(tell), _additions(updates)
        if name := _extra(product, channel):
            extra = additions.install(name, force=force_check, carried=carried, progress=told)
        else:
            made = updates.install(force=force_check, carried=carried, progress=told)
            extras = additions.install_all(progress=told) if carried is None else []
    if name:
        _answer_extra(extra, as_json=as_json)
    else:
        _answer(made, extras, as_json=as_json)


@device.command()
@click.option("--product", help="An extra instead of the base.")
@home_option
@json_option
def rollback(product: str | None, home: Path | None, as_json: bool) -> None:
    """Make the version before active again, with the adapters that it had. The one left is not installed again."""
    updates = _updates(home)
    if product:
        _answer_extra(_additions(updates).roll_back(product), as_json=as_json)
        return
    _answer(updates.rollback(), as_json=as_json)


@device.command()
@click.argument("product")
@home_option
@json_option
def remove(product: str, home: Path | None, as_json: bool) -> None:
    """Take the extra PRODUCT out of use, for every base, and look for it no more."""
    _answer_extra(_additions(_updates(home)).remove(product), as_json=as_json)


@device.command()
@home_option
@json_option
def status(home: Path | None, as_json: bool) -> None:
    """Say what is active, what was before, where updates come from and what failed. Asks nobody."""
    updates = _updates(home)
    additions = _additions(updates)
    facts = updates.status() | {"extras": additions.status()}
    facts["failed"] += additions.failed()
    source = facts["source"]
    lines = [
        f"active   {facts['active']}" + (f", slot {facts['slot']}" if facts["slot"] != "shipped" else ""),
        f"before   {facts['before'] or 'none: nothing to roll back to'}",
        f"source   {_named(source) if source else 'none; --repository URL and --root FILE name one'}",
        f"asked    {facts['seen'] or 'never'}",
        f"on disk  {facts['megabytes']:.1f} MB in slots, extras and downloads",
    ]
    lines += [_extra_line(each) for each in facts["extras"]]
    if facts["staged"]:
        lines.append(f"staged   version {facts['staged']} waits; `limbeck device install` goes on")
    lines += [
        f"failed   {one.get('product', 'version')} {one['version']}, {one['at']}: {one['why']}"
        for one in facts["failed"]
    ]
    answer(facts, "\n".join(lines), as_json=as_json)


def _extra_line(each: dict[str, Any]) -> str:
    if each["version"] is None:
        return (
            f"extra    {each['product']} ({each['kind']}): nothing for this base; `limbeck device install` looks again"
        )
    before = f"; before: version {each['before']}" if each["before"] else ""
    return f"extra    {each['product']} ({each['kind']}), version {each['version']}{before}"


def _named(source: dict[str, Any]) -> str:
    return f"{source['name']}, channel {source['channel']}, from {source['url']}"


def _updates(home: Path | None, policy: tuple[str, ...] = ()) -> "Updates":
    from personalize import Home
    from sdk.device.allow import UpdatePolicy
    from sdk.device.install import Updates

    return Updates(Home.open(home), policy=UpdatePolicy().changed(policy))


def _additions(updates: "Updates") -> "Additions":
    from sdk.device.extend import Additions

    return Additions(updates)


def _extra(product: str | None, channel: str) -> str | None:
    """Name of the extra that is meant; None: the base is."""
    if channel != "adapters":
        return None
    if product is None:
        raise click.UsageError("the channel adapters has many products, so say which with --product NAME")
    return product


def _followed(
    home: Path | None,
    policy: tuple[str, ...],
    repository: str | None,
    root: Path | None,
    product: str | None,
    channel: str,
) -> "Updates":
    """The updates of a home, following a repository if one was given."""
    from sdk.device.repository import Source

    if (repository is None) != (root is None):
        raise click.UsageError("--repository and --root go together: an address is worth nothing without its root")
    updates = _updates(home, policy)
    if repository and root:
        active, extra = updates.active_or_none(), _extra(product, channel)
        name = (None if extra else product) or (active.manifest.name if active else None)
        if name is None:
            raise click.UsageError("there is no base here yet, so say which with --product NAME, without --channel")
        base_channel = "stable" if extra else channel
        updates.follow(Source(url=repository, channel=base_channel, name=name), root.read_bytes())
    return updates


def _in_kilobytes(tell: Tell) -> Tell:
    """Bytes on the bar as kB; what counts items stays."""

    def told(what: str, done: int, total: int) -> None:
        if what.startswith("fetch ") and total > 1:
            tell(f"{what} (kB)", done // 1000, max(1, total // 1000))
        else:
            tell(what, done, total)

    return told


def _answer(made: "Outcome", extras: "Sequence[Extended]" = (), *, as_json: bool) -> None:
    lines = [made.words, *(_became(name, facts) for name, facts in made.adapters.items())]
    lines += [extra.words for extra in extras]
    answer(asdict(made) | {"extras": [asdict(extra) for extra in extras]}, "\n".join(lines), as_json=as_json)


def _answer_extra(made: "Extended", *, as_json: bool) -> None:
    answer(asdict(made), made.words, as_json=as_json)


def _became(name: str, facts: dict[str, Any]) -> str:
    if facts.get("admitted"):
        return f"adapter {name}: carried over, {facts['kept']:.0%} of its effect on public and written text survived"
    why = facts.get("why", "the gate refused it on the new base")
    return f"adapter {name}: {why}; the bare base answers, `limbeck device rollback` brings it back"
