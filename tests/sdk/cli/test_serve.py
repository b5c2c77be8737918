"""`limbeck serve` as a process: it says where it listens, answers, refuses in one line, and stops when it is asked."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner

from sdk.bundle import Bundle
from sdk.cli import app
from sdk.device.server.listen import address, open_socket
from sdk.errors import ServeError
from tests.tiny import tiny_bundle

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    bundle = tiny_bundle(tmp_path)
    monkeypatch.setenv("LIMBECK_BASE", str(bundle.folder))
    return bundle


def started(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sdk.cli.app", "serve", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def serving(*words: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The command with --json, once it answers; and what it said."""
    with started(*words, "--json") as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield process, json.loads(line)
        finally:
            process.kill()


def test_it_says_where_it_listens_answers_and_stops_when_asked(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with serving("--port", "0", "--token-file", str(tmp_path / "token")) as (process, said):
        assert said["models"] == ["limbeck", "limbeck-base"]
        assert said["token"] is True
        client = openai.OpenAI(base_url=said["url"], api_key=TOKEN, max_retries=0)
        answer = client.chat.completions.create(
            model="limbeck", messages=[{"role": "user", "content": "the cat"}], max_tokens=3
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 3
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read().splitlines()[-1] == "stopped"


def test_a_port_in_use_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with open_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr("sys.argv", ["limbeck", "serve", "--port", str(port)])
        with pytest.raises(SystemExit) as ended:
            app.main()
    assert ended.value.code == 1
    assert capsys.readouterr() == (
        "",
        f"limbeck: port {port} of 127.0.0.1 is in use; stop what uses it, or choose another with --port, 0 for any\n",
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_beyond_this_machine_it_needs_a_token(host: str) -> None:
    with pytest.raises(ServeError, match="give a token"):
        open_socket(host, 0)


@pytest.mark.parametrize("token", ["", "short", "x" * 20 + "\n", "ä" * 20])
def test_a_token_that_can_be_guessed_or_not_be_sent_is_refused(token: str) -> None:
    with pytest.raises(ServeError, match="at least 16 of printable ASCII"):
        open_socket("127.0.0.1", 0, token=token)


def test_the_token_may_stand_in_the_environment_and_one_that_is_too_short_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LIMBECK_TOKEN", "short")
    with pytest.raises(ServeError, match="5 characters"):
        CliRunner().invoke(app.cli, ["serve", "--port", "0"], catch_exceptions=False)


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(ServeError, match="there is no port 70000"):
        open_socket("127.0.0.1", 70000)


def test_an_address_of_version_6_is_written_in_brackets() -> None:
    try:
        with open_socket("::1", 0) as listening:
            assert address(listening).startswith("http://[::1]:")
    except ServeError as refused:
        pytest.skip(f"this machine has no IPv6: {refused}")
