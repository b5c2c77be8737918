"""What devices are offered: a version added, let out to more or fewer of them, taken back."""

from pathlib import Path

import click

from sdk.cli.options import answer, json_option, shown_progress
from sdk.cli.release_options import (
    FILE,
    FOLDER,
    answer_change,
    answer_request,
    channel_option,
    dry_option,
    one_version,
    opened,
    per10k_of,
)

__all__ = ["add", "delta", "revoke", "rollout"]

percent_option = click.option(
    "--percent", type=click.FloatRange(0, 100), required=True, help="Share of devices, in steps of 0.01."
)


@click.command()
@click.argument("repository", type=FOLDER)
@click.argument("bundle", type=click.Path(path_type=Path))
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
@click.option("--name", help="Of an extra: its product.")
@click.option("--version", help="Of an extra.")
@click.option("--licence", default="", help="Of an extra: SPDX identifier.")
@click.option("--origin", default="", help="Of an extra: what it was learned or made from.")
@click.option("--for-base", type=FOLDER, help="Of probes or a router: the bundle that they fit.")
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
    for_base: Path | None,
    dry: bool,
    as_json: bool,
) -> None:
    """Offer BUNDLE, or an extra (an adapter, a pack, probes.jsonl, router.json), as the newest version.

    It waits for signatures. An extra goes to the channel adapters.
    """
    from sdk.bundle import Bundle
    from sdk.catalogue import Health, Requirements
    from sdk.release.offers import Offer, add_with_deltas
    from sdk.release.payload import open_payload
    from sdk.release.repository import now_utc

    payload = open_payload(
        bundle,
        name=name,
        version=version,
        licence=licence,
        origin=origin,
        for_base=Bundle.open(for_base) if for_base else None,
    )
    offer = Offer(
        per10k=per10k_of(percent),
        requires=Requirements(
            sdk=needs_sdk,
            memory_mb=needs_memory_mb,
            hardware=needs_hardware,
            base_digest=None if payload.kind == "base" else payload.base_digest,
        ),
        health=Health(
            loss_ratio_ppm=round(most_loss * 1_000_000),
            agreement_per10k=per10k_of(least_agreement),
            seconds=check_seconds,
            memory_mb=check_memory_mb,
        ),
    )
    with opened(repository) as place, shown_progress() as tell:
        request = add_with_deltas(
            place, payload, offer, delta_from, channel=channel, now=now_utc(), dry=dry, progress=tell
        )
    answer_request(request, repository, dry=dry, as_json=as_json)


@click.group()
def rollout() -> None:
    """Let a version reach more devices, fewer, or none."""


@rollout.command("set")
@percent_option
@one_version
def set_(repository: Path, percent: float, dry: bool, as_json: bool, **what: str) -> None:
    """Let VERSION of NAME reach a share of devices; it waits for signatures."""
    from sdk.release.offers import roll_out

    answer_change(roll_out, repository, dry=dry, as_json=as_json, per10k=per10k_of(percent), **what)


@rollout.command()
@one_version
def stop(repository: Path, dry: bool, as_json: bool, **what: str) -> None:
    """Let VERSION of NAME reach nobody any more; devices that have it keep it. It waits for signatures."""
    from sdk.release.offers import roll_out

    answer_change(roll_out, repository, dry=dry, as_json=as_json, per10k=0, **what)


@rollout.command()
@one_version
def minimum(repository: Path, dry: bool, as_json: bool, **what: str) -> None:
    """Let devices below VERSION of NAME move on at once, whatever the rollout; it waits for signatures."""
    from sdk.release.offers import raise_minimum

    answer_change(raise_minimum, repository, dry=dry, as_json=as_json, **what)


@click.command()
@one_version
def revoke(repository: Path, dry: bool, as_json: bool, **what: str) -> None:
    """Take VERSION of NAME back: devices that have it leave it at once. It waits for signatures."""
    from sdk.release.offers import revoke as take_back

    answer_change(take_back, repository, dry=dry, as_json=as_json, **what)


@click.command()
@click.argument("old", type=FOLDER)
@click.argument("new", type=FOLDER)
@click.option("--out", type=FILE, required=True, help="Where the delta goes.")
@dry_option
@json_option
def delta(old: Path, new: Path, out: Path, dry: bool, as_json: bool) -> None:
    """Write what turns bundle OLD into bundle NEW, applied and compared; `add --delta-from` does it by itself."""
    import tempfile
    from dataclasses import asdict

    from sdk.bundle import Bundle
    from sdk.release.delta import make_delta

    with shown_progress() as tell, tempfile.TemporaryDirectory() as aside:
        file = Path(aside) / "delta" if dry else out
        made = make_delta(Bundle.open(old), Bundle.open(new), file, progress=tell)
    line = f"{out}: {made.bytes / 1e6:.2f} MB instead of {made.bundle_bytes / 1e6:.2f} MB; applied and compared"
    if dry:
        line += "\ndry run: nothing changed"
    answer({"file": str(out), **asdict(made)}, line, as_json=as_json)
