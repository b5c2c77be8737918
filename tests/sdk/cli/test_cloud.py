"""`ask` and `chat` with a larger model behind them: requests to a loopback endpoint, and a person at a terminal."""

import json
import os
import pty
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from personalize import Home
from personalize.learner import Learner
from sdk.bundle import Bundle
from sdk.cli import cloud as module
from sdk.cli.app import cli
from sdk.confidence import FEATURES, Calibration, Head
from sdk.device.assistant import Assistant
from sdk.device.handoff.consent import Consent, Preview
from sdk.device.runtime import Runtime
from sdk.errors import CloudError, RouterError
from tests import endpoint
from tests.tiny import tiny_bundle

QUESTION = "write to Ana Keller, +1 415 555 2671"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    made = tiny_bundle(tmp_path)
    monkeypatch.setattr("sdk.build.package.open_base", lambda told, home=None: made)
    return made


@pytest.fixture
def cloud() -> Iterator[endpoint.Service]:
    with endpoint.serving() as service:
        yield service


def router(folder: Path, bundle: Bundle, threshold: float = 1.0) -> str:
    """A calibration that keeps nothing, or with threshold 0 all."""
    head = Head(features=FEATURES[:1], lows=(0.0,), highs=(9.0,), weights=(0.1,), intercept=0.0)
    file = folder / "router.json"
    made = Calibration(base_digest=bundle.base_digest, risk=0.05, threshold=threshold, head=head, report={})
    file.write_bytes(made.to_json())
    return os.fspath(file)


@pytest.fixture
def words(tmp_path: Path, bundle: Bundle, cloud: endpoint.Service) -> list[str]:
    (tmp_path / "names").write_text("Ana Keller\n\n", encoding="utf-8")
    given = {"--cloud": cloud.url, "--cloud-model": "large", "--names": str(tmp_path / "names")}
    return [word for pair in given.items() for word in pair] + ["--router", router(tmp_path, bundle)]


def run(*words: str, stdin: str | None = None) -> Result:
    made = CliRunner().invoke(cli, [*words], input=stdin)
    assert made.exit_code == 0, made.output
    return made


def consent(tmp_path: Path) -> Consent:
    return Consent.open(Home.open(tmp_path / "home"))


def test_without_a_person_or_a_standing_yes_nothing_leaves(
    words: list[str], cloud: endpoint.Service, bundle: Bundle
) -> None:
    made = run("ask", QUESTION, "--tokens", "4", *words)
    assert made.stdout.rstrip("\n") == Runtime.open(bundle).generate(QUESTION, 4)
    assert made.stderr.strip().startswith("[local, confidence 0.5")
    assert "not permitted" in made.stderr
    assert cloud.requests == []


def test_with_consent_the_answer_is_the_clouds_and_says_so(
    words: list[str], cloud: endpoint.Service, tmp_path: Path
) -> None:
    consent(tmp_path).with_kind("question", "allow")
    told = json.loads(run("ask", QUESTION, "--json", *words).stdout)
    (sent,) = cloud.requests
    assert sent["messages"] == [{"role": "user", "content": "write to [PERSON_1], [PHONE_1]"}]
    assert told["answer"] == "WRITE TO Ana Keller, +1 415 555 2671"  # Put back on the device.
    assert (told["route"], 0 < told["confidence"] < 1, told["threshold"]) == ("cloud", True, 1.0)
    assert "is not above" in told["reason"]
    assert told["sent_bytes"] == len(json.dumps(sent["messages"], separators=(",", ":")))
    assert told["local_answer"] != told["answer"]
    assert not list((tmp_path / "home").glob("experience*"))  # Nothing was learned from it.


def test_who_is_in_what_was_taught_stays_here_without_a_list_of_names(
    words: list[str], cloud: endpoint.Service, tmp_path: Path, bundle: Bundle
) -> None:
    consent(tmp_path).with_standing("always")
    given = words[: words.index("--names")] + words[words.index("--names") + 2 :]
    teacher = Assistant.open(tmp_path / "home", bundle=bundle)
    teacher.remember(prompt="who", answer="a friend", contact="Bo Lund <bo@lund.example>")
    run("ask", "what does Lund like", *given)
    assert cloud.requests[0]["messages"][0]["content"] == "what does [PERSON_1] like"


def test_a_sure_answer_stays_whatever_was_consented_to(
    words: list[str], cloud: endpoint.Service, tmp_path: Path, bundle: Bundle
) -> None:
    consent(tmp_path).with_standing("always")
    router(tmp_path, bundle, threshold=0.0)
    told = json.loads(run("ask", QUESTION, "--json", "--tokens", "4", *words).stdout)
    assert (told["route"], told["sent_bytes"], cloud.requests) == ("local", 0, [])
    assert told["answer"] == told["local_answer"]


@pytest.mark.parametrize(
    ("act", "seconds", "why"),
    [
        (endpoint.status(401), "60", "the key is not accepted"),
        (endpoint.status(503), "60", "503"),
        (endpoint.hang, "1", "no whole answer within 1 s"),
    ],
    ids=["wrong key", "5xx", "slow"],
)
def test_whatever_fails_the_local_answer_comes_with_one_line_why(
    words: list[str], cloud: endpoint.Service, tmp_path: Path, act: endpoint.Act, seconds: str, why: str
) -> None:
    consent(tmp_path).with_standing("always")
    cloud.acts = [act]
    made = run("ask", QUESTION, "--tokens", "4", "--cloud-seconds", seconds, *words)
    assert made.stderr.strip().startswith("[local, confidence 0.")
    assert why in made.stderr
    assert len(made.stderr.strip().splitlines()) == 1
    assert len(cloud.requests) == 1


def test_a_conversation_goes_on_with_what_the_cloud_said(
    words: list[str], cloud: endpoint.Service, tmp_path: Path
) -> None:
    consent(tmp_path).with_standing("always")
    cloud.acts = [endpoint.chat("the heron"), endpoint.hang_up]
    lines = "the cat\nand the dog\nno\n/history\n"
    made = run("chat", "--max-tokens", "4", "--session", "trip", *words, stdin=lines)
    assert "the heron\n[cloud, confidence 0." in made.stdout
    assert made.stdout.count("[local, confidence 0.") == 1
    assert "[cloud, confidence" in made.stdout.partition("[local, ")[2]
    assert [turn["content"] for turn in cloud.requests[1]["messages"]] == ["the cat", "the heron", "and the dog"]
    kept = json.loads((tmp_path / "home" / "sessions" / "trip.json").read_text())["history"]
    assert [turn["content"] for turn in kept if turn["role"] == "assistant"][::2] == ["the heron", "NO"]
    objects = run("chat", "--max-tokens", "4", "--json", *words, stdin="the cat\n").stdout
    assert json.loads(objects)["route"] == "cloud"


def test_a_clouds_answer_is_learned_from_only_where_the_person_says_so(
    words: list[str], cloud: endpoint.Service, tmp_path: Path
) -> None:
    consent(tmp_path).with_standing("always")
    run("chat", "--max-tokens", "4", *words, stdin="the cat\nthe dog\n/good\n")
    learner = Learner(Home.open(tmp_path / "home"), None)
    kept = [(record.experience.prompt, record.experience.answer) for record in learner.store.all()]
    learner.close()
    assert kept == [("the dog", "THE DOG")]


@pytest.mark.parametrize(("typed", "permitted"), [("y", True), ("n", False), ("", False), ("\x04", False)])
def test_a_person_at_a_terminal_sees_what_would_leave_and_only_y_sends_it(
    typed: str, permitted: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", terminal)
        patch.setattr("sys.stderr.isatty", lambda: True, raising=False)
        ask = module.person("a duck")
        assert ask is not None
        os.write(ours, f"{typed}\n".encode() if typed != "\x04" else b"\x04")
        assert ask(Preview(kind="question", host="cloud.example", content=b'[{"content":"[PERSON_1]"}]')) is permitted
    os.close(ours)
    shown = capfd.readouterr().err
    assert "not sure of its answer:\na duck\n" in shown
    assert '26 bytes to cloud.example (question)\n[{"content":"[PERSON_1]"}]' in shown


def test_where_stdin_or_stderr_is_no_terminal_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.person("a duck") is None
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert module.person("a duck") is None  # The preview would go into a file.


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--cloud", "https://host/v1"], "--cloud-model"),
        (["--cloud-model", "large"], "--cloud"),
        (["--cloud", "https://host/v1", "--cloud-model", "m", "--relay", "https://relay"], "--pin"),
        (["--cloud", "https://host/v1", "--cloud-model", "m", "--stream"], "--stream"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(bundle: Bundle, more: list[str], why: str) -> None:
    made = CliRunner().invoke(cli, ["ask", "the cat", *more])
    assert made.exit_code == 2
    assert why in made.stderr


def test_a_calibration_of_another_base_and_an_address_that_is_none_are_refused(
    words: list[str], bundle: Bundle, tmp_path: Path
) -> None:
    words[words.index("--cloud") + 1] = "nowhere"
    assert isinstance(CliRunner().invoke(cli, ["ask", "the cat", *words]).exception, CloudError)
    text = Path(router(tmp_path, bundle)).read_text(encoding="utf-8").replace(bundle.base_digest, "sha256:0")
    (tmp_path / "router.json").write_text(text, encoding="utf-8")
    assert isinstance(CliRunner().invoke(cli, ["ask", "the cat", *words]).exception, RouterError)


def test_a_hand_off_that_did_not_ask_would_be_seen(
    words: list[str], cloud: endpoint.Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeded mutant: a person who is taken to say yes where nobody is asked."""
    monkeypatch.setattr("sdk.cli.ask.person", lambda said: lambda preview: True)
    run("ask", QUESTION, "--tokens", "4", *words)
    assert len(cloud.requests) == 1
