"""`limbeck build answers`: prompts in, what a teacher writes to them out."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.options import answer, json_option, shown_progress
from sdk.cli.signals import stop_when_asked

if TYPE_CHECKING:
    from sdk.build.answers import AnswersReport
    from sdk.build.teacher import Remote
    from sdk.build.teachers.price import Estimate

__all__ = ["answers"]

Command = Callable[..., Any]
TOGETHER = 8  # Prompts of a local teacher between two looks at Ctrl-C; its own batch.


def endpoint_options(command: Command) -> Command:
    """How an address is used; of no effect for weights."""
    price = click.FloatRange(0)
    options = (
        click.option("--model", help="Address only: the model, as the endpoint calls it."),
        click.option(
            "--key-variable",
            default="LIMBECK_TEACHER_KEY",
            show_default=True,
            help="Environment variable that holds the key; no key is sent where it is unset.",
        ),
        click.option("--input-price", type=price, help="Price of a million tokens of prompts, in any currency."),
        click.option("--output-price", type=price, help="Price of a million tokens of answers."),
        click.option("--max-cost", type=price, help="Refuse to begin, and to go on, where it could cost more."),
        click.option("--at-once", type=click.IntRange(1, 64), default=4, show_default=True, help="Open requests."),
        click.option("--per-minute", type=click.FloatRange(0, min_open=True), help="Requests that may start a minute."),
        click.option(
            "--timeout", type=click.FloatRange(1), default=120.0, show_default=True, help="Seconds for one answer."
        ),
        click.option("--extra", help="JSON object of fields to add to each request; null takes one away."),
        click.option("--cache", type=click.Path(path_type=Path, dir_okay=False), help="File of paid answers."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("prompts", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--teacher", required=True, help="A model's folder, a GGUF file, or an address such as https://host/v1.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="JSON lines to write.")
@click.option("--licence", help="Of the teacher; written beside each answer. [what its model card says]")
@click.option("--max-new-tokens", type=click.IntRange(1), default=256, show_default=True, help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True, help="0: the likeliest.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides what is drawn above temperature 0.")
@endpoint_options
@click.option("--resume", is_flag=True, help="Go on with OUT: ask only for what is missing there.")
@click.option("--dry-run", is_flag=True, help="Print what would be asked and what it may cost; ask nothing.")
@json_option
def answers(
    prompts: Path,
    teacher: str,
    out: Path,
    licence: str | None,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    resume: bool,
    dry_run: bool,
    as_json: bool,
    **endpoint: Any,
) -> None:
    """Let a teacher answer the prompts of a JSON lines file.

    Ctrl-C stops after the answers under way; the same call with --resume goes on. What an endpoint was paid for is
    kept in a cache and never asked for twice.
    """
    from sdk.build.answers import estimate_answers, read_prompts, write_answers
    from sdk.build.teacher import is_address, open_teacher
    from sdk.build.teachers.protocol import Sampling

    items = read_prompts(prompts)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    with stop_when_asked() as stop:
        remote = _remote(endpoint, stop) if is_address(teacher) else None
        opened = open_teacher(teacher, licence=licence, remote=remote)
        estimate = estimate_answers(opened, items, out, sampling, resume=resume)
        if dry_run:
            answer(asdict(estimate), _planned(estimate), as_json=as_json)
            return
        click.echo(_planned(estimate), err=True)
        with shown_progress() as tell:
            report = write_answers(
                opened,
                items,
                out,
                sampling,
                resume=resume,
                batch=remote.at_once if remote else TOGETHER,
                stop=stop,
                progress=tell,
            )
    facts = asdict(report) | {"out": str(out), "teacher": opened.facts.name, "licence": opened.facts.licence}
    answer(facts, _done(report, out), as_json=as_json)
    if report.stopped:
        raise click.exceptions.Exit(130)


def _remote(options: dict[str, Any], stop: Callable[[], bool]) -> "Remote":
    from sdk.build.teacher import Remote
    from sdk.build.teachers.endpoint import Patience
    from sdk.build.teachers.price import Price

    prices = [options[name] for name in ("input_price", "output_price")]
    if prices.count(None) == 1:
        raise click.UsageError("give both --input-price and --output-price, or neither")
    if options["max_cost"] is not None and None in prices:
        raise click.UsageError("--max-cost needs --input-price and --output-price")
    return Remote(
        model=options["model"] or "",
        key=os.environ.get(options["key_variable"]) or None,
        price=None if None in prices else Price(input_per_million=prices[0], output_per_million=prices[1]),
        max_cost=options["max_cost"],
        per_minute=options["per_minute"],
        at_once=options["at_once"],
        patience=Patience(timeout_s=options["timeout"]),
        extra=_extra(options["extra"]),
        cache=options["cache"],
        stop=stop,
    )


def _extra(stated: str | None) -> dict[str, Any]:
    try:
        found = json.loads(stated or "{}")
    except ValueError as cause:
        raise click.UsageError("--extra is not JSON") from cause
    if not isinstance(found, dict):
        raise click.UsageError("--extra is no JSON object")
    if taken := {"model", "messages", "stream", "n"} & found.keys():
        raise click.UsageError(f"--extra cannot set {', '.join(sorted(taken))}")
    return found


def _planned(estimate: "Estimate") -> str:
    cost = "price unknown" if estimate.cost is None else f"at most about {estimate.cost:.4f}"
    kept = f", {estimate.cached} more are in the cache" if estimate.cached else ""
    return (
        f"{estimate.requests} answers to ask for{kept}: about {estimate.input_tokens} tokens of prompts, "
        f"at most {estimate.output_tokens} of answers; {cost}"
    )


def _done(report: "AnswersReport", out: Path) -> str:
    words = f"{report.written} answers written, {report.already} were there, {report.prompts} prompts, in {out}"
    if report.cut:
        words += f"\n{report.cut} were cut at --max-new-tokens"
    if report.refused:
        words += f"\n{report.refused} were refused, first: {report.first_refusal}"
    if report.cost:
        words += f"\ncost {report.cost:.4f}"
    if report.stopped:
        words += "\nstopped; the same call with --resume goes on"
    return words
