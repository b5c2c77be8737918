"""`limbeck ask`: a prompt in, the device's own answer out, whole or piece by piece, as text or as JSON of a schema."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.cloud import cloud_options, hand_off, person, record, told
from sdk.cli.options import adapter_option, answer, engine_option, home_option, json_option, shown_progress, shown_wait
from sdk.errors import GenerationError

if TYPE_CHECKING:
    from sdk.device.assistant import Assistant

__all__ = ["ask", "opened", "session_file"]

MOST_BYTES = 64 * 1024 * 1024  # Read from stdin at most; what is longer than the context is refused in words.


@click.command()
@click.argument("prompt", default="-")
@click.option(
    "--stream", "streamed", is_flag=True, help="Print the answer while it is written, which is what happens anyway."
)
@click.option(
    "--json-schema",
    "schema_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON Schema that the answer must fit.",
)
@click.option("--session", "named", help="Go on with the conversation of this name, kept in the home.")
@click.option("--system", help="Words to the model before the conversation.")
@click.option(
    "--tokens", "--max-tokens", type=click.IntRange(1, 4096), default=64, show_default=True, help="Longest answer."
)
@click.option(
    "--temperature", type=click.FloatRange(0, 4), default=0.0, show_default=True, help="0 is the likeliest answer."
)
@click.option("--bare", is_flag=True, help="Without the learned adapter.")
@adapter_option
@engine_option
@cloud_options
@home_option
@json_option
def ask(
    prompt: str,
    streamed: bool,
    schema_file: Path | None,
    named: str | None,
    system: str | None,
    tokens: int,
    temperature: float,
    bare: bool,
    line: str | None,
    engine: str,
    home: Path | None,
    as_json: bool,
    **cloud: Any,
) -> None:
    """Ask the base model with the newest admitted adapter; nothing leaves the device without --cloud and a yes.

    PROMPT - reads stdin.
    """
    if streamed and (as_json or cloud["cloud"]):
        raise click.UsageError("--stream prints while it is written; --json and --cloud wait until it is whole")
    if schema_file is not None and cloud["cloud"]:
        raise click.UsageError("an answer that must fit a schema stays on the device; leave out --cloud")
    schema = None if schema_file is None else _schema(schema_file)
    if prompt == "-":
        prompt = _from_stdin()
    if not prompt.strip():
        raise GenerationError("the prompt is empty; ask something")  # Before seconds go by that load a model.
    assistant = opened(home, bare=bare, line=line, engine=engine)
    file = None if named is None else session_file(home, named)
    behind = hand_off(assistant, home, **cloud)
    session = assistant.session(restore=file if file is not None and file.exists() else None)
    session.instructions = session.instructions if system is None else system
    made = None
    for piece in session.stream(prompt, schema, max_new_tokens=tokens, temperature=temperature):
        made = piece.answer or made
        if not as_json and schema is None and behind is None:
            click.echo(piece.text, nl=False)
    final = None
    if behind and made:
        final = behind.in_session(session, answer=made, ask=person(made.text), max_new_tokens=tokens)
    if file is not None:
        session.save(file)
    if made is None:
        return
    if schema is not None and made.value is None:
        from sdk.device.answers.schema import value_of

        value_of(schema, made.text)  # Says what is wrong with it.
    words = final.text if final else "" if schema is None else made.text
    answer(record(made, final), words, as_json=as_json)
    if final and not as_json:
        click.echo(f"[{told(final)}]", err=True)


def opened(home: Path | None, *, bare: bool, line: str | None, engine: str) -> "Assistant":
    """The assistant of a home, with progress while its base is made ready; says so where another engine must answer."""
    with shown_wait("open the model"):  # What is imported here takes as long as the model itself.
        from sdk.build.package import open_base
        from sdk.device.assistant import Assistant

    with shown_progress() as tell:
        bundle = open_base(lambda step, done: tell(step, round(100 * done), 100), home=home)
    with shown_wait("open the model"):
        assistant = Assistant.open(home, bundle=bundle, adapter=not bare, line=line, engine=engine)
    if assistant.engine_choice.fallback:
        click.echo(f"{assistant.engine_name} answers: {assistant.engine_choice.why}", err=True)
    return assistant


def _from_stdin() -> str:
    if sys.stdin.isatty():
        click.echo("type the prompt, then Ctrl-D", err=True)
    return sys.stdin.buffer.read(MOST_BYTES).decode(errors="replace")


def _schema(file: Path) -> dict[str, Any]:
    from sdk.errors import SchemaError

    try:
        schema = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as wrong:
        raise SchemaError(f"{file} is no JSON ({wrong!s:.80})") from wrong
    if not isinstance(schema, dict):
        raise SchemaError(f"{file} holds no JSON object")
    return schema


def session_file(home: Path | None, name: str) -> Path:
    """Where a conversation of this name is kept; its folder is made."""
    from personalize import Home

    if not (0 < len(name) <= 64 and name.replace("-", "").replace("_", "").isalnum() and name.isascii()):
        raise click.UsageError("a session's name is 1 to 64 letters, digits, - and _")
    folder = Home.open(home).path / "sessions"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{name}.json"
