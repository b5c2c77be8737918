"""`limbeck chat` on a tiny base: lines from a pipe, a real terminal, commands, refusals, Ctrl-C."""

import io
import json
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from personalize import Home
from personalize.learner import Learner
from sdk.bundle import Bundle
from sdk.cli import chat as module
from sdk.cli.app import cli
from sdk.device.assistant import Assistant
from sdk.device.runtime import Runtime
from tests.tiny import tiny_bundle


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    bundle = tiny_bundle(tmp_path)
    monkeypatch.setattr("sdk.build.package.open_base", lambda told, home=None: bundle)
    return bundle


def talk(*lines: str, words: tuple[str, ...] = ()) -> tuple[str, str]:
    made = CliRunner().invoke(cli, ["chat", "--max-tokens", "4", *words], input="".join(f"{line}\n" for line in lines))
    assert made.exit_code == 0, made.output
    return made.stdout, made.stderr


def test_each_line_is_a_turn_and_each_answer_says_where_it_came_from(base: Bundle) -> None:
    told, _ = talk("the cat", "and the dog")
    assert told.startswith(Runtime.open(base).generate("the cat", 4))
    assert told.count("[local, 4 tokens, ") == 2


def test_commands_show_and_forget_what_was_said() -> None:
    told, more = talk("the cat", "/history", "/new", "/history", "/nonsense", "/help", "/quit", "never read")
    assert told.count("user: the cat") == 1
    assert "never read" not in told
    assert "no such command: /nonsense" in more
    assert more.count("/quit     leave") == 2


def test_how_an_answer_was_taken_is_remembered_and_nothing_else(tmp_path: Path) -> None:
    lines = (
        "/good",
        "the cat",
        "/edit",
        "/edit the cat sleeps",
        "/good more",
        "/bad",
        "the dog",
        "/good",
        "/new",
        "/good",
    )
    _, more = talk(*lines)
    assert more.count("nothing was remembered") == 4
    learner = Learner(Home.open(tmp_path / "home"), None)
    kept = [record.experience for record in learner.store.all()]
    learner.close()
    assert [(one.prompt, one.signal.value) for one in kept] == [
        ("the cat", "edited"), ("the cat", "rejected"), ("the dog", "accepted"),
    ]  # fmt: skip
    assert kept[0].answer == "the cat sleeps"


def test_for_a_script_each_answer_is_one_object() -> None:
    told, _ = talk("the cat", "and the dog", words=("--json",))
    assert [json.loads(line)["route"] for line in told.splitlines()] == ["local", "local"]


def test_a_conversation_is_kept_after_each_turn(tmp_path: Path) -> None:
    talk("the cat", words=("--session", "trip"))
    talk("and the dog", words=("--session", "trip"))
    kept = json.loads((tmp_path / "home" / "sessions" / "trip.json").read_text())
    assert [turn["content"] for turn in kept["history"] if turn["role"] == "user"] == ["the cat", "and the dog"]


def test_a_refused_question_is_one_line_and_the_conversation_goes_on() -> None:
    told, more = talk("word " * 5000, "the cat")
    assert len(more.strip().splitlines()) == 1
    assert told.count("[local, ") == 1


def test_ctrl_c_ends_the_answer_and_not_the_conversation(base: Bundle, tmp_path: Path) -> None:
    session = Assistant.open(tmp_path / "home", bundle=base).session()
    before = signal.getsignal(signal.SIGINT)
    with module._interrupted_by_ctrl_c(session.cancel):
        pieces = session.stream("the cat", max_new_tokens=64)
        next(pieces)
        os.kill(os.getpid(), signal.SIGINT)
        last = [piece.answer for piece in pieces][-1]
    assert last is not None
    assert last.finish == "cancelled"
    assert signal.getsignal(signal.SIGINT) is before
    assert session.answer("the dog", max_new_tokens=2).finish == "length"


def test_a_person_at_a_terminal_types_lines_until_they_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal())
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("the cat\r and the dog \r\x04")
        assert list(module._lines()) == ["the cat", "and the dog"]
        keys.send_text("\x03")
        assert list(module._lines()) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
