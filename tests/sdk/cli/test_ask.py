"""`limbeck ask` on a tiny base: text, JSON of a schema, sessions, stdin, refusals."""

import io
import json
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from sdk.cli import ask as module
from sdk.cli import options
from sdk.cli.app import cli
from sdk.device.runtime import Runtime
from sdk.errors import AnswerError, GenerationError, SchemaError, SessionError
from tests.tiny import tiny_bundle


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    bundle = tiny_bundle(tmp_path)
    monkeypatch.setattr("sdk.build.package.open_base", lambda told, home=None: bundle)
    return Runtime.open(bundle).generate("the cat", 8)


def run(*words: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["ask", *words], input=stdin)


def test_text_comes_from_the_argument_or_from_stdin(base: str) -> None:
    for made in (run("the cat", "--max-tokens", "8", "--stream"), run("--tokens", "8", stdin="the cat")):
        assert made.exit_code == 0, made.output
        assert made.stdout.rstrip("\n") == base


def test_a_person_who_gives_no_prompt_is_told_how_to_type_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(io.BytesIO(b"the cat\n")))
    assert module._from_stdin() == "the cat\n"
    assert capsys.readouterr().err == "type the prompt, then Ctrl-D\n"


def test_a_schema_is_kept_and_the_record_says_how_it_came(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(
        json.dumps({"type": "object", "properties": {"t": {"type": "string", "x-copy": True}}, "required": ["t"]})
    )
    made = json.loads(run("Lunch with Ana", "--json-schema", str(schema), "--json").stdout)
    assert made["value"]["t"].lower() in "lunch with ana"
    assert (made["route"], made["engine"], made["finish"], made["adapter"]) == ("local", "torch", "stop", None)
    assert made["usage"]["prompt_tokens"] > made["usage"]["answer_tokens"] > 0
    plain = run("Lunch with Ana", "--json-schema", str(schema))
    assert json.loads(plain.stdout) == made["value"]
    assert isinstance(run("Lunch with Ana", "--json-schema", str(schema), "--tokens", "2").exception, AnswerError)


def test_while_a_model_is_opened_a_terminal_sees_that_and_a_pipe_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    assert run("the cat", "--tokens", "2").stderr == ""
    monkeypatch.setattr(options, "Console", partial(Console, file=shown, force_terminal=True))
    run("the cat", "--tokens", "2")
    assert "open the model" in shown.getvalue()


@pytest.mark.parametrize("content", ["{", "[]", '{"type":"nonsense"}', '{"$ref":"#"}'])
def test_a_bad_schema_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "schema.json").write_text(content)
    assert isinstance(run("the cat", "--json-schema", str(tmp_path / "schema.json")).exception, SchemaError)


def test_a_session_goes_on_where_it_was(tmp_path: Path) -> None:
    first = run("the cat", "--session", "talk", "--tokens", "4", "--system", "Be brief.", "--json")
    second = run("the cat", "--session", "talk", "--tokens", "4", "--json")
    assert json.loads(second.stdout)["usage"]["prompt_tokens"] > json.loads(first.stdout)["usage"]["prompt_tokens"]
    file = tmp_path / "home" / "sessions" / "talk.json"
    assert file.stat().st_mode & 0o077 == 0
    assert len(json.loads(file.read_text())["history"]) == 4
    file.write_text("damaged")
    assert isinstance(run("the cat", "--session", "talk").exception, SessionError)
    assert run("the cat", "--session", "../talk").exit_code == 2


def test_an_empty_prompt_is_refused_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdk.build.package.open_base", lambda told, home=None: pytest.fail("loaded"))
    for made in (run("  "), run(stdin="\n")):
        assert isinstance(made.exception, GenerationError)


@pytest.mark.parametrize("stdin", [b"", b"\xff\xfe" * 5_000_000])
def test_nothing_and_ten_megabytes_of_bytes_are_refused(stdin: bytes) -> None:
    assert isinstance(run(stdin=stdin).exception, GenerationError)
