"""The command that lets other programs ask: an OpenAI-compatible server on this machine, until it is stopped."""

import os
from pathlib import Path

import click

from sdk.cli.options import adapter_option, answer, engine_option, home_option, json_option, shown_progress, shown_wait
from sdk.cli.signals import stop_when_asked

__all__ = ["serve"]


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; beyond loopback needs a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes any free port.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File whose first line clients must show. [LIMBECK_TOKEN, else none is asked for]",
)
@click.option("--origin", "origins", multiple=True, help="A web page's origin that may ask. Repeatable. [none]")
@click.option("--at-once", type=click.IntRange(1, 64), default=2, show_default=True, help="Answers at the same time.")
@click.option("--waiting", type=click.IntRange(0, 10_000), default=64, show_default=True, help="Requests in the queue.")
@click.option("--per-minute", type=click.IntRange(1), default=600, show_default=True, help="Requests a minute.")
@click.option("--tokens", type=click.IntRange(1), default=2048, show_default=True, help="Longest answer.")
@click.option("--seconds", type=click.FloatRange(1), default=120.0, show_default=True, help="Longest an answer takes.")
@adapter_option
@engine_option
@home_option
@json_option
def serve(
    host: str,
    port: int,
    token_file: Path | None,
    origins: tuple[str, ...],
    at_once: int,
    waiting: int,
    per_minute: int,
    tokens: int,
    seconds: float,
    line: str | None,
    engine: str,
    home: Path | None,
    as_json: bool,
) -> None:
    """Answer OpenAI-compatible requests of programs on this machine, until Ctrl-C or SIGTERM."""
    from sdk.device.server.limits import Limits
    from sdk.device.server.listen import address, open_socket
    from sdk.device.server.listen import serve as answer_requests

    token = _token(token_file)
    limits = Limits(
        at_once=at_once, waiting=waiting, per_minute=per_minute, answer_tokens=tokens, answer_seconds=seconds
    )
    with open_socket(host, port, token=token) as listening, stop_when_asked() as stop:
        with shown_wait("open the model"):
            from sdk.build.package import open_base  # Torch and all; what cannot listen is refused before.
            from sdk.device.server.local import Local

        with shown_progress() as tell:
            bundle = open_base(lambda step, done: tell(step, round(100 * done), 100), home=home)
        with shown_wait("open the model"):
            local = Local.open(home, bundle=bundle, line=line, engine=engine)
        if local.engine_choice.fallback:
            click.echo(f"{local.engine_choice.name} answers: {local.engine_choice.why}", err=True)
        url, models = address(listening), [model.id for model in local.models()]

        def ready() -> None:
            words = f"{url} answers for {', '.join(models)}; Ctrl-C stops"
            answer({"url": url, "models": models, "token": token is not None}, words, as_json=as_json)

        answer_requests(local, listening, limits=limits, token=token, origins=origins, stop=stop, ready=ready)
    click.echo("stopped", err=True)


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("LIMBECK_TOKEN") or None
    return file.read_text(encoding="utf-8").partition("\n")[0].strip()
