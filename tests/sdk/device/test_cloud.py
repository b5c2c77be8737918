"""The door to the cloud: nothing leaves without leave, and every failure is one typed line before the deadline."""

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from personalize import Home
from sdk.device.cloud import KEY_VARIABLE, Cloud, read_key
from sdk.device.handoff.consent import Consent, Permission, Preview, canonical
from sdk.device.oblivious.key_source import KeySource
from sdk.errors import (
    CloudError,
    CloudGarbledError,
    CloudRefusedError,
    CloudUnreachableError,
    ConsentError,
    KeyConfigurationError,
)
from tests import endpoint

MESSAGES = [{"role": "user", "content": "hello"}]
KEY = "sk-0123456789"


def leave(cloud: Cloud, home: Path, messages: list[dict[str, str]] = MESSAGES) -> Permission:
    preview = Preview(kind="question", host=cloud.host, content=canonical(messages))
    given = Consent.open(Home.open(home)).asked(preview, lambda shown: True)
    assert given
    return given


def test_an_answer_comes_back_with_what_it_cost(tmp_path: Path) -> None:
    with endpoint.serving() as service:
        cloud = Cloud(service.url, model="large", key=KEY, deadline=60)
        answer = cloud.ask(MESSAGES, leave(cloud, tmp_path), max_new_tokens=9, schema={"type": "string"})
    assert (answer.text, answer.finish, answer.prompt_tokens, answer.answer_tokens) == ("HELLO", "stop", 10, 5)
    assert (answer.model, answer.oblivious, answer.traffic) == ("large", False, None)
    (request,) = service.requests
    assert (request["path"], request["messages"], request["max_tokens"]) == ("/v1/chat/completions", MESSAGES, 9)
    assert request["response_format"]["json_schema"]["schema"] == {"type": "string"}
    assert {name.lower(): value for name, value in service.headers[0].items()}["authorization"] == f"Bearer {KEY}"
    assert not {"user-agent", "cookie"} & {name.lower() for name in service.headers[0]}


def test_without_a_permission_for_these_bytes_and_this_host_nothing_is_sent(tmp_path: Path) -> None:
    with endpoint.serving() as service, endpoint.serving() as other:
        cloud, elsewhere = (Cloud(one.url, model="large", deadline=60) for one in (service, other))
        with pytest.raises(ConsentError):
            cloud.ask(MESSAGES, leave(elsewhere, tmp_path))
        with pytest.raises(ConsentError):
            cloud.ask([{"role": "user", "content": "something else"}], leave(cloud, tmp_path))
        with pytest.raises(ConsentError):
            Permission(Preview(kind="question", host=cloud.host, content=canonical(MESSAGES)), "me")
        given = leave(cloud, tmp_path)
        cloud.ask(MESSAGES, given)
        with pytest.raises(ConsentError):
            cloud.ask(MESSAGES, given)
        assert len(service.requests) == 1
        assert other.requests == []


def test_a_permission_that_checks_nothing_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seeded mutant of the check."""
    monkeypatch.setattr(Permission, "spend", lambda *_: None)
    with pytest.raises(pytest.fail.Exception):
        test_without_a_permission_for_these_bytes_and_this_host_nothing_is_sent(tmp_path)


@pytest.mark.parametrize(
    ("act", "error", "why"),
    [
        (endpoint.status(401), CloudRefusedError, "401: busy; the key is not accepted"),
        (endpoint.status(404), CloudRefusedError, "check address and model"),
        (endpoint.status(429), CloudRefusedError, "try later"),
        (endpoint.status(500, f"your key {KEY}\x1b[2J\nis"), CloudRefusedError, r"500: your key \[key\] \[2J is"),
        (endpoint.text(502, "<html>bad gateway"), CloudRefusedError, "refuses with 502$"),
        (endpoint.page(), CloudGarbledError, "HTML"),
        (endpoint.text(200, "nonsense"), CloudGarbledError, "without an answer"),
        (endpoint.text(200, "[" * 90_000), CloudGarbledError, "without an answer"),
        (endpoint.text(200, "[]"), CloudGarbledError, "without an answer"),
        (endpoint.text(200, '{"choices": []}'), CloudGarbledError, "without an answer"),
        (endpoint.text(200, '{"choices": [{"message": {"content": null}}]}'), CloudGarbledError, "without a text"),
        (endpoint.text(200, "x" * (4 * 1024 * 1024 + 1)), CloudGarbledError, "more than"),
        (endpoint.hang_up, CloudUnreachableError, "broke"),
        (endpoint.cut_short, CloudUnreachableError, "broke"),
    ],
)
def test_whatever_an_endpoint_does_is_one_typed_line(
    tmp_path: Path, act: endpoint.Act, error: type[CloudError], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with endpoint.serving(act) as service:
        cloud = Cloud(service.url, model="large", key=KEY, deadline=60)
        with pytest.raises(error, match=why) as raised:
            cloud.ask(MESSAGES, leave(cloud, tmp_path))
        assert len(service.requests) == 1  # Never twice.
    assert "\n" not in str(raised.value)
    assert KEY not in str(raised.value) + repr(raised.value) + repr(cloud) + caplog.text


def test_a_redirect_is_not_followed_and_the_key_goes_nowhere_else(tmp_path: Path) -> None:
    with endpoint.serving() as elsewhere:
        for code in (301, 302, 303, 307, 308):
            with endpoint.serving(endpoint.text(code, "", Location=elsewhere.url)) as service:
                cloud = Cloud(service.url, model="large", key=KEY, deadline=60)
                with pytest.raises(CloudRefusedError, match="redirects elsewhere"):
                    cloud.ask(MESSAGES, leave(cloud, tmp_path))
        assert elsewhere.headers == []


def test_a_silent_endpoint_is_left_at_the_deadline(tmp_path: Path) -> None:
    with endpoint.serving(endpoint.hang) as service:
        cloud = Cloud(service.url, model="large", deadline=1)
        begun = time.monotonic()
        with pytest.raises(CloudUnreachableError, match="no whole answer within 1 s"):
            cloud.ask(MESSAGES, leave(cloud, tmp_path))
        assert time.monotonic() - begun < 20


def test_offline_is_said_at_once(tmp_path: Path) -> None:
    cloud = Cloud("http://127.0.0.1:9/v1", model="large", deadline=60)
    with pytest.raises(CloudUnreachableError, match="cannot be reached"):
        cloud.ask(MESSAGES, leave(cloud, tmp_path))


def test_too_much_for_one_question_is_not_sent(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "x" * 600_000}]
    with endpoint.serving() as service:
        cloud = Cloud(service.url, model="large", deadline=60)
        with pytest.raises(CloudError, match="too much for one question"):
            cloud.ask(messages, leave(cloud, tmp_path, messages))
        assert service.requests == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"endpoint": "http://cloud.example/v1"}, "unencrypted"),
        ({"endpoint": "https://ana:pw@cloud.example"}, "more than a path"),
        ({"key": "a\nb"}, "no header can carry"),
        ({"deadline": 0}, "positive"),
        ({"relay": "https://relay.example"}, "go together"),
        ({"relay": "http://relay.example", "file": True}, "unencrypted"),
        ({"relay": "https://relay.example", "file": True, "key": KEY}, "would tell the gateway who asks"),
    ],
)
def test_what_cannot_be_or_would_give_a_person_away_is_refused_at_once(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    keys = KeySource(file=tmp_path / "keys") if changes.pop("file", False) else None
    with pytest.raises(CloudError, match=why) as raised:
        Cloud(**({"endpoint": "https://cloud.example/v1", "model": "large", "keys": keys} | changes))
    assert KEY not in str(raised.value)


def test_a_key_is_read_from_its_owners_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert read_key() is None
    monkeypatch.setenv(KEY_VARIABLE, "sk-1")
    assert read_key() == "sk-1"
    file = tmp_path / "key"
    file.write_text("sk-2\nmore\n")
    file.chmod(0o600)
    assert read_key(file) == "sk-2"
    file.chmod(0o644)
    with pytest.raises(CloudError, match="others than its owner"):
        read_key(file)
    file.write_text("\n")
    file.chmod(0o600)
    for path, why in ((file, "empty"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(CloudError, match=why):
            read_key(path)


@pytest.mark.parametrize(
    ("urls", "pins", "file", "why"),
    [
        (["https://a.example/keys"], [], False, "one address and no pin"),
        (["https://a.example/keys", "https://a.example/keys"], [], False, "one address and no pin"),
        ([], [], False, "give one of both"),
        (["https://a.example/keys"], ["00"], True, "give one of both"),
    ],
)
def test_keys_that_might_be_made_for_one_person_are_refused(
    tmp_path: Path, urls: list[str], pins: list[str], file: bool, why: str
) -> None:
    with pytest.raises(KeyConfigurationError, match=why):
        KeySource(*urls, pins=pins, file=tmp_path / "keys" if file else None)
