"""The commands of a device: signed updates of the base, looked for, installed, tried, taken back."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.options import Tell, answer, home_option, json_option, shown_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdk.device.install import Outcome, Updates

__all__ = ["device"]


@click.group()
def device() -> None:
    """Signed updates of this device's base model."""


def source_options(command: "Callable[..., Any]") -> "Callable[..., Any]":
    """Where updates come from; needed once, remembered in the home."""
    options = (
        click.option("--repository", help="Address of the release repository. [as before]"),
        click.option("--root", type=click.Path(path_type=Path, dir_okay=False), help="Its root.json. [as before]"),
        click.option("--product", help="Name of the bundles. [that of the active base]"),
        click.option("--channel", default="stable", show_default=True, help="stable or testing."),
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
    """Fetch, verify and try the newest release for this device; switch to it if it passes. Ctrl-C loses nothing."""
    updates = _followed(home, policy, repository, root, product, channel)
    with shown_progress() as tell:
        made = updates.install(force=force_check, carried=carried, progress=_in_kilobytes(tell))
    _answer(made, as_json=as_json)


@device.command()
@home_option
@json_option
def rollback(home: Path | None, as_json: bool) -> None:
    """Make the version before active again, with the adapters that it had. The one left is not installed again."""
    _answer(_updates(home).rollback(), as_json=as_json)


@device.command()
@home_option
@json_option
def status(home: Path | None, as_json: bool) -> None:
    """Say what is active, what was before, where updates come from and what failed. Asks nobody."""
    facts = _updates(home).status()
    source = facts["source"]
    lines = [
        f"active   {facts['active']}" + (f", slot {facts['slot']}" if facts["slot"] != "shipped" else ""),
        f"before   {facts['before'] or 'none: nothing to roll back to'}",
        f"source   {_named(source) if source else 'none; --repository URL and --root FILE name one'}",
        f"asked    {facts['seen'] or 'never'}",
        f"on disk  {facts['megabytes']:.1f} MB in slots and downloads",
    ]
    if facts["staged"]:
        lines.append(f"staged   version {facts['staged']} waits; `limbeck device install` goes on")
    lines += [f"failed   version {one['version']}, {one['at']}: {one['why']}" for one in facts["failed"]]
    answer(facts, "\n".join(lines), as_json=as_json)


def _named(source: dict[str, Any]) -> str:
    return f"{source['name']}, channel {source['channel']}, from {source['url']}"


def _updates(home: Path | None, policy: tuple[str, ...] = ()) -> "Updates":
    from personalize import Home
    from sdk.device.allow import UpdatePolicy
    from sdk.device.install import Updates

    return Updates(Home.open(home), policy=UpdatePolicy().changed(policy))


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
        active = updates.active_or_none()
        name = product or (active.manifest.name if active else None)
        if name is None:
            raise click.UsageError("there is no base here yet, so say which with --product NAME")
        updates.follow(Source(url=repository, channel=channel, name=name), root.read_bytes())
    return updates


def _in_kilobytes(tell: Tell) -> Tell:
    """Bytes on the bar as kB; what counts items stays."""

    def told(what: str, done: int, total: int) -> None:
        if what.startswith("fetch ") and total > 1:
            tell(f"{what} (kB)", done // 1000, max(1, total // 1000))
        else:
            tell(what, done, total)

    return told


def _answer(made: "Outcome", *, as_json: bool) -> None:
    lines = [made.words, *(_became(name, facts) for name, facts in made.adapters.items())]
    answer(asdict(made), "\n".join(lines), as_json=as_json)


def _became(name: str, facts: dict[str, Any]) -> str:
    if facts.get("admitted"):
        return f"adapter {name}: carried over, {facts['kept']:.0%} of its effect on public and written text survived"
    why = facts.get("why", "the gate refused it on the new base")
    return f"adapter {name}: {why}; the bare base answers, `limbeck device rollback` brings it back"
