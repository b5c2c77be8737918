"""The commands of consent and calibration, as a person types them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdk.cli.app import cli
from sdk.errors import ConsentError
from tests.sdk.build.test_router import tasks_file
from tests.tiny import tiny_bundle


def run(*words: str) -> str:
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_consent_is_off_until_it_is_given_and_can_be_taken_back() -> None:
    assert "nothing leaves" in run("consent", "show")
    run("consent", "always")
    run("consent", "deny", "reply")
    assert json.loads(run("consent", "allow", "summary", "--json")) == {
        "format": "consent/1", "standing": "always", "kinds": {"reply": "deny", "summary": "allow"},
    }  # fmt: skip
    run("consent", "forget", "summary")
    run("consent", "ask")
    assert "nothing leaves this device" in run("consent", "never")
    assert json.loads(run("consent", "show", "--json"))["kinds"] == {"reply": "deny"}


def test_a_kind_that_is_none_is_refused() -> None:
    with pytest.raises(ConsentError, match="names no kind"):
        run("consent", "allow", "../x")


def test_build_router_writes_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdk.build.router.MAX_NEW_TOKENS", 4)
    folder, out = tiny_bundle(tmp_path).folder, tmp_path / "router.json"
    said = run("build", "router", str(folder), "--tasks", str(tasks_file(tmp_path)), "--out", str(out), "--json")
    fields = json.loads(said)
    assert fields.pop("out") == str(out)
    assert fields == json.loads(out.read_bytes())
    assert "threshold" in run("build", "router", str(folder), "--tasks", str(tasks_file(tmp_path)), "--out", str(out))
