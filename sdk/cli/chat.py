"""`limbeck chat`: a conversation in a terminal; each answer says where it came from."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from personalize.errors import PersonalizeError
from privacy.errors import PrivacyError
from sdk.cli.ask import opened, session_file
from sdk.cli.cloud import cloud_options, hand_off, person, record, told
from sdk.cli.options import adapter_option, answer, engine_option, home_option, json_option
from sdk.errors import SdkError

if TYPE_CHECKING:
    from sdk.device.answers.records import Answer
    from sdk.device.answers.session import Session
    from sdk.device.assistant import Assistant
    from sdk.device.hybrid import HandOff

__all__ = ["chat"]

HELP = """\
/help     these lines
/history  what was said so far
/new      forget this conversation and begin another
/good     remember the last answer for the next night; /bad: it is never learned from
/edit TEXT  remember TEXT as what the last answer should have been
/quit     leave; so do Ctrl-D, and Ctrl-C where nothing is being written
Ctrl-C    ends the answer that is being written"""


@click.command()
@click.option("--session", "named", help="Go on with the conversation of this name, kept in the home.")
@click.option("--system", help="Words to the model before the conversation.")
@click.option("--max-tokens", type=click.IntRange(1, 4096), default=128, show_default=True, help="Longest answer.")
@click.option("--bare", is_flag=True, help="Without the learned adapter.")
@adapter_option
@engine_option
@cloud_options
@home_option
@json_option
def chat(
    named: str | None,
    system: str | None,
    max_tokens: int,
    bare: bool,
    line: str | None,
    engine: str,
    home: Path | None,
    as_json: bool,
    **cloud: Any,
) -> None:
    """Talk with the device's own model; nothing leaves the device without --cloud and a yes.

    Reads lines where stdin is no terminal.
    """
    file = None if named is None else session_file(home, named)
    assistant = opened(home, bare=bare, line=line, engine=engine)
    behind = hand_off(assistant, home, **cloud)
    session = assistant.session(restore=file if file is not None and file.exists() else None)
    session.instructions = session.instructions if system is None else system
    talk = _Talk(assistant, session, behind, max_tokens, as_json)
    for asked in _lines():
        if asked == "/quit":
            break
        if asked.startswith("/"):
            talk.command(*asked.split(" ", 1))
        elif asked:
            talk.answer(asked)
        if file is not None:
            session.save(file)


def _lines() -> Iterator[str]:
    """What a person types, until they leave."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin)
        return
    from prompt_toolkit import PromptSession

    click.echo("/help says what else can be typed.", err=True)
    typed: PromptSession[str] = PromptSession()  # Keeps what was typed, for the arrow keys
    while True:
        try:
            yield typed.prompt("> ").strip()
        except (EOFError, KeyboardInterrupt):
            return


@dataclass
class _Talk:
    """One conversation on a screen, and the last answer as it stands."""

    assistant: "Assistant"
    session: "Session"
    behind: "HandOff | None"
    max_tokens: int
    as_json: bool
    last: "Answer | None" = None

    def command(self, asked: str, text: str = "") -> None:
        """Do what a line with a slash asks for."""
        if asked == "/new":
            self.session.history, self.session.earlier, self.last = [], "", None
        elif asked == "/history":
            for turn in self.session.history:
                click.echo(f"{turn['role']}: {turn['content']}")
        elif asked in ("/good", "/bad", "/edit"):
            self.judge(asked, text.strip())
        else:
            click.echo(HELP if asked == "/help" else f"no such command: {asked}\n{HELP}", err=True)

    def judge(self, asked: str, text: str) -> None:
        """Remember how the person took the last answer, a larger model's too; nothing else is learned from."""
        if self.last is None or (asked == "/edit") != bool(text):
            why = "/edit needs a text, /good and /bad none" if self.last else "there is no answer yet"
            click.echo(f"nothing was remembered: {why}", err=True)
            return
        try:
            if asked == "/edit":
                self.assistant.feedback(self.last, "edited", text)
            else:
                self.assistant.feedback(self.last, "accepted" if asked == "/good" else "rejected")
        except (SdkError, PersonalizeError, PrivacyError) as refused:
            click.echo(f"nothing was remembered: {refused}", err=True)
            return
        words = "remembered; it is never learned from" if asked == "/bad" else "remembered for the next night"
        click.echo(words, err=True)

    def answer(self, asked: str) -> None:
        """Write one answer; what is refused is said in one line, and the conversation goes on."""
        made = final = None
        try:
            with _interrupted_by_ctrl_c(self.session.cancel):
                for piece in self.session.stream(asked, max_new_tokens=self.max_tokens):
                    if not self.as_json and self.behind is None:
                        click.echo(piece.text, nl=False)
                    made = piece.answer or made
            if made and self.behind:
                final = self.behind.in_session(
                    self.session, answer=made, ask=person(made.text), max_new_tokens=self.max_tokens
                )
        except SdkError as refused:
            click.echo(str(refused), err=True)
        except KeyboardInterrupt:
            click.echo("no longer waited for the larger model", err=True)
        if made is None:
            return
        self.last = final.answer if final else made
        if self.as_json:
            answer(record(made, final), "", as_json=True)
            return
        seconds = made.timing.total_s + (final.cloud.seconds if final and final.cloud else 0)
        cut = {"cancelled": ", stopped", "length": ", cut at its longest"}.get(made.finish, "")
        how = f"{made.usage.answer_tokens} tokens, {seconds:.1f} s{cut if final is None else ''}"
        text = "" if self.behind is None else final.text if final else made.text
        click.echo(f"{text}\n[{made.route}, {how}]" if final is None else f"{text}\n[{told(final)}; {how}]")


@contextmanager
def _interrupted_by_ctrl_c(cancel: Callable[[], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, lambda number, frame: cancel())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
