"""`limbeck build answers` as it is typed: weights or an address in, a file of answers out, refusals in one line."""

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from sdk.build.teachers import endpoint
from sdk.build.teachers.endpoint import Patience
from sdk.cli.app import main
from tests.endpoint import Act, Service, chat, hang_up, page, serving, status
from tests.families import save_family

KEY = "sk-test-0123456789abcdef"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "the cat", "task": "title"}, {"prompt": "a note"}, {"prompt": "the cat"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """An endpoint, tried again after milliseconds instead of seconds."""
    monkeypatch.setattr(endpoint, "Patience", partial(Patience, attempts=2, first_wait_s=0.01, longest_wait_s=0.02))
    with serving() as one:
        yield one


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Typed":
    return Typed(monkeypatch, capsys)


class Typed:
    """The command line: exit code, stdout and stderr of one call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *words: object) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["limbeck", "build", "answers", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as done:
            code = int(done.code or 0)
        told = self._capsys.readouterr()
        return code, told.out, told.err

    def refused(self, *words: object) -> str:
        """The one line of a call that ends with exit code 1."""
        code, out, err = self(*words)
        assert (code, out) == (1, "")
        line = err.rstrip("\n").splitlines()[-1]
        assert "Traceback" not in err
        return line


def test_weights_answer_each_prompt_once_and_a_second_call_goes_on(typed: Typed, prompts: Path, tmp_path: Path) -> None:
    save_family(tmp_path / "teacher", "qwen3")
    out = tmp_path / "out.jsonl"
    words = [prompts, "--teacher", tmp_path / "teacher", "--out", out, "--max-new-tokens", 4, "--json"]
    code, said, err = typed(*words, "--licence", "mit")
    assert code == 0, err
    facts = json.loads(said)
    assert (facts["prompts"], facts["written"], facts["licence"]) == (2, 2, "mit")
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(row["prompt"], row.get("task"), row["teacher_licence"]) for row in rows] == [
        ("the cat", "title", "mit"),
        ("a note", None, "mit"),
    ]
    assert "--resume" in typed.refused(*words, "--licence", "mit")
    again = json.loads(typed(*words, "--licence", "mit", "--resume")[1])
    assert (again["already"], again["written"]) == (2, 0)
    assert "under other settings" in typed.refused(*words, "--licence", "mit", "--resume", "--seed", 1)
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] == rows


def test_an_address_is_asked_with_the_key_and_costs_what_was_said(
    typed: Typed, prompts: Path, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    words = [
        prompts,
        "--teacher",
        service.url,
        "--model",
        "large-1",
        "--key-variable",
        "MY_KEY",
        "--extra",
        '{"top_p": 1}',
    ]
    words += ["--out", tmp_path / "out.jsonl", "--input-price", 1, "--output-price", 10]
    code, said, _ = typed(*words, "--dry-run", "--json")
    assert (code, json.loads(said)["requests"], service.requests) == (0, 2, [])
    assert "over the limit" in typed.refused(*words, "--max-cost", 0.000001)
    assert service.requests == []
    code, said, err = typed(*words, "--max-cost", 1)
    assert code == 0, err
    assert "2 answers written" in said
    assert {row["model"] for row in service.requests} == {"large-1"}
    assert {row["top_p"] for row in service.requests} == {1}
    assert {row["Authorization"] for row in service.headers} == {f"Bearer {KEY}"}
    assert KEY not in said + err + (tmp_path / "out.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("act", "tried", "line"),
    [
        (page(), 1, "answers HTML where JSON is needed"),
        (hang_up, 2, "failed 2 times, last: the connection broke"),
        (status(401, "bad key"), 1, "HTTP 401: bad key; set the key in the environment"),
    ],
)
def test_an_endpoint_in_trouble_ends_in_one_line_and_what_was_answered_stays(
    typed: Typed, prompts: Path, service: Service, tmp_path: Path, act: Act, tried: int, line: str
) -> None:
    words = [prompts, "--teacher", service.url, "--model", "m", "--out", tmp_path / "out.jsonl", "--at-once", 1]
    service.acts[:] = [chat(), *[act] * tried]
    assert line in typed.refused(*words)
    assert (service.acts, len(service.requests)) == ([], 1 + tried)
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8").count("\n") == 1
    code, said, _ = typed(*words, "--resume", "--json")
    assert (code, json.loads(said)["already"], json.loads(said)["written"]) == (0, 1, 1)


def test_an_endpoint_that_is_down_is_one_line(typed: Typed, prompts: Path, service: Service, tmp_path: Path) -> None:
    with serving() as gone:
        url = gone.url
    line = typed.refused(prompts, "--teacher", url, "--model", "m", "--out", tmp_path / "out.jsonl")
    assert "failed 2 times, last: no connection" in line
    assert not (tmp_path / "out.jsonl").exists()


def test_an_address_without_a_model_is_refused(typed: Typed, prompts: Path, tmp_path: Path) -> None:
    line = typed.refused(prompts, "--teacher", "http://127.0.0.1:9/v1", "--out", tmp_path / "out.jsonl")
    assert "--model" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--input-price", 1], "both --input-price and --output-price"),
        (["--max-cost", 1], "--max-cost needs"),
        (["--extra", "{"], "--extra is not JSON"),
        (["--extra", "[]"], "--extra is no JSON object"),
        (["--extra", '{"model": "other"}'], "--extra cannot set model"),
    ],
)
def test_options_that_do_not_go_together_are_a_wrong_call(
    typed: Typed, prompts: Path, tmp_path: Path, options: list[object], said: str
) -> None:
    words = [prompts, "--teacher", "http://127.0.0.1:9/v1", "--model", "m", "--out", tmp_path / "out.jsonl"]
    code, out, err = typed(*words, *options)
    assert (code, out) == (2, "")
    assert said in err
