"""Options of a larger model behind the device's own: how it is asked, what must not leave, and the person's yes."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sdk.device.answers.records import Answer
    from sdk.device.assistant import Assistant
    from sdk.device.handoff.consent import Preview
    from sdk.device.hybrid import HandOff, HybridAnswer

__all__ = ["cloud_options", "hand_off", "person", "record", "told"]

Command = Callable[..., Any]
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
MOST_NAMES_BYTES = 1024 * 1024  # Ten thousand names; more is no list of contacts.


def cloud_options(command: Command) -> Command:
    """A larger model, and the way to it; nothing is sent without --cloud."""
    options = (
        click.option("--cloud", help="A larger model's address, such as https://host/v1. [none: nothing leaves]"),
        click.option("--cloud-model", help="The larger model, as its endpoint calls it; needed with --cloud."),
        click.option("--cloud-key", type=FILE, help="File whose first line is the endpoint's key. [LIMBECK_CLOUD_KEY]"),
        click.option(
            "--cloud-seconds", type=click.FloatRange(0.1, 600), default=10.0, show_default=True,
            help="Longest wait for the larger model.",
        ),
        click.option("--relay", help="Ask through this Oblivious HTTP relay; needs --pin."),
        click.option("--pin", "pins", multiple=True, help="Of the gateway's keys behind the relay. Repeatable."),
        click.option("--names", type=FILE, help="File of names, one a line, replaced in what leaves."),
        click.option("--region", default="US", show_default=True, help="Country of telephone numbers without a code."),
        click.option("--router", type=FILE, help="Calibration other than the base's own."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def hand_off(assistant: "Assistant", home: Path | None, **options: Any) -> "HandOff | None":
    """The parts put together by the options; None without --cloud. Nothing is asked."""
    if options["cloud"] is None:
        if any(options[name] for name in ("cloud_model", "cloud_key", "relay", "pins", "names", "router")):
            raise click.UsageError("these options are about a larger model; give its address with --cloud")
        return None
    if not options["cloud_model"]:
        raise click.UsageError("--cloud needs --cloud-model: which of its models is asked")
    if bool(options["relay"]) != bool(options["pins"]):
        raise click.UsageError("--relay and --pin go together: the pin says whose keys are trusted")
    from personalize import Home
    from sdk.device.cloud import Cloud, read_key
    from sdk.device.handoff.consent import Consent
    from sdk.device.hybrid import HandOff
    from sdk.device.oblivious.key_source import KeySource
    from sdk.device.router import Router

    opened, relay = Home.open(home), options["relay"]
    base = assistant.bundle.base_digest
    router = (
        Router.read(options["router"], base_digest=base)
        if options["router"]
        else Router.of(assistant.bundle, opened.path, adapter=assistant.adapter_name)
    )
    cloud = Cloud(
        options["cloud"],
        model=options["cloud_model"],
        key=read_key(options["cloud_key"]) if options["cloud_key"] or not relay else None,
        relay=relay,
        keys=KeySource(f"{relay.rstrip('/')}/keys", pins=options["pins"]) if relay else None,
        deadline=options["cloud_seconds"],
    )
    names = [*assistant.contacts(), *_names(options["names"])]
    return HandOff(router, Consent.open(opened), cloud, names=names, region=options["region"])


def person(said: str) -> "Callable[[Preview], bool] | None":
    """Who is asked: the person at the terminal, who sees what the device said; None where nobody is: nothing leaves."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask(preview: "Preview") -> bool:
        click.echo(f"The device is not sure of its answer:\n{said}\nThis would leave it:\n{preview.text()}", err=True)
        try:
            return click.confirm("Send it?", default=False, err=True)
        except click.Abort:  # Ctrl-C is no yes.
            return False

    return ask


def record(answer: "Answer", made: "HybridAnswer | None") -> dict[str, Any]:
    """The answer for a script; with a larger model behind it also the route's reason, and what the device said."""
    if made is None:
        return answer.to_dict()
    return answer.to_dict() | {
        "answer": made.text,
        "route": made.route,
        "confidence": made.decision.confidence,
        "threshold": made.decision.threshold,
        "reason": made.reason,
        "local_answer": made.local_text,
        "sent_bytes": len(made.preview.content) if made.preview and made.cloud else 0,
    }


def told(made: "HybridAnswer") -> str:
    """Where an answer came from and why, for a person."""
    return f"{made.route}, confidence {made.decision.confidence:.2f}: {made.reason}"


def _names(file: Path | None) -> list[str]:
    if file is None:
        return []
    with file.open(encoding="utf-8", errors="replace") as opened:
        return [name for line in opened.read(MOST_NAMES_BYTES).splitlines() if (name := line.strip())]
