"""A real local server that misbehaves gets patience, or one clear line; never a stack, never a key."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from sdk.build.teachers import endpoint
from sdk.build.teachers.endpoint import Endpoint, Pace, Patience
from sdk.errors import EndpointError, PromptRefusedError
from tests.endpoint import Act, chat, cut_short, hang, hang_up, page, serving, status, text

PATIENT = Patience(attempts=3, first_wait_s=0.01, longest_wait_s=0.02, timeout_s=60)  # A busy machine does not hang.
HURRIED = replace(PATIENT, timeout_s=2)
BODY = {"messages": [{"role": "user", "content": "hello"}]}
KEY = "sk-test-0123456789abcdef"


def said(url: str, *, key: str | None = None, patience: Patience = PATIENT) -> str:
    answer = Endpoint(url, key=key, patience=patience).post("chat/completions", BODY)
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    "trouble",
    [status(429), status(500), status(503), page(502), cut_short, hang_up, hang, text(200, '{"choices": [')],
    ids=["429", "500", "503", "html 502", "cut body", "hangs up", "hangs", "cut JSON"],
)
def test_what_passes_is_waited_out(trouble: Act) -> None:
    with serving(trouble) as service:
        assert said(service.url, patience=HURRIED if trouble is hang else PATIENT) == "HELLO"
        assert len(service.requests) == 2


@pytest.mark.parametrize(
    ("trouble", "line"),
    [
        (status(429, "slow down"), r"failed 3 times, last: HTTP 429: slow down; try again later"),
        (status(500, "boom"), r"failed 3 times, last: HTTP 500: boom"),
        (page(502), r"failed 3 times, last: HTTP 502; try again"),
        (cut_short, r"failed 3 times, last: the connection broke \(IncompleteRead\)"),
        (hang_up, r"failed 3 times, last: the connection broke \(RemoteDisconnected\)"),
        (hang, r"failed 3 times, last: no answer in 2 s"),
        (text(200, '{"choices": ['), r"failed 3 times, last: an answer that is no whole JSON \(13 bytes\)"),
    ],
    ids=["429", "500", "html 502", "cut body", "hangs up", "hangs", "cut JSON"],
)
def test_what_stays_is_one_clear_line(trouble: Act, line: str) -> None:
    with serving(trouble, trouble, trouble) as service, pytest.raises(EndpointError, match=line) as refused:
        said(service.url, patience=HURRIED if trouble is hang else PATIENT)
    assert len(service.requests) == 3
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (page(), r"answers HTML where JSON is needed; such addresses usually end in /v1"),
        (text(200, "[1, 2]"), "answers a JSON list where an object is needed"),
        (status(401, "no key"), "refuses with HTTP 401: no key; set the key in the environment"),
        (status(403), "HTTP 403: busy; is the key allowed"),
        (status(404, "no such model"), "HTTP 404: no such model; check address and model"),
        (text(302, "", Location="http://elsewhere.example/v1"), "redirects to http://elsewhere.example/v1; name"),
        (text(429, '{"error": {"message": "pay", "code": "insufficient_quota"}}'), "refuses with HTTP 429: pay"),
    ],
)
def test_what_no_patience_helps_is_refused_at_once(answer: Act, line: str) -> None:
    with serving(answer) as service, pytest.raises(EndpointError, match=line):
        said(service.url)
    assert len(service.requests) == 1


def test_a_prompt_that_is_refused_is_told_apart() -> None:
    with serving(status(400, "too long")) as service, pytest.raises(PromptRefusedError, match="too long"):
        said(service.url)


def test_an_endpoint_that_is_not_there_is_one_clear_line() -> None:
    with serving() as service:
        url = service.url
    with pytest.raises(EndpointError, match=r"failed 3 times, last: no connection \(.*refused\); try again later"):
        said(url)


def test_a_body_that_drips_does_not_hold_the_run() -> None:
    def drip(handler, body) -> None:  # type: ignore[no-untyped-def]
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(600):
            try:
                handler.wfile.write(b" ")
            except OSError:
                return
            time.sleep(0.1)

    with serving(drip) as service:
        began = time.monotonic()
        assert said(service.url, patience=HURRIED) == "HELLO"
    assert time.monotonic() - began < 30


def test_retry_after_is_honoured_in_seconds_and_as_a_date() -> None:
    with serving(status(429, Retry_After="1")) as service:
        assert said(service.url) == "HELLO"
        assert service.times[1] - service.times[0] > 0.95  # Without the header it waits for 0.01 s at most.
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert endpoint._asked_wait(then) == pytest.approx(59.5, abs=10)
    assert endpoint._asked_wait("soon") is None
    assert endpoint._asked_wait("-5") == 0


def test_a_long_retry_after_ends_the_run_and_says_when_to_come_back() -> None:
    with serving(status(429, Retry_After="3600")) as service, pytest.raises(EndpointError, match="come back in 3600 s"):
        said(service.url)


def test_a_client_that_ignores_retry_after_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_asked_wait", lambda value: None)
    with serving(status(429, Retry_After="1")) as service:
        said(service.url)
        assert service.times[1] - service.times[0] < 0.5


def test_waits_double_below_a_bound_and_are_drawn_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[float] = []

    def drawn(low: float, high: float) -> float:
        bounds.append(high)
        return 0.0

    monkeypatch.setattr("random.uniform", drawn)
    patience = Patience(attempts=6, first_wait_s=1, longest_wait_s=5)
    with serving(*[status(500)] * 5) as service:
        said(service.url, patience=patience)
    assert bounds == [1, 2, 4, 5, 5]


def test_requests_start_no_faster_than_the_rate() -> None:
    with serving() as service:
        one = Endpoint(service.url, pace=Pace(per_minute=600))
        for _ in range(4):
            one.post("chat/completions", BODY)
        gaps = [later - earlier for earlier, later in zip(service.times, service.times[1:], strict=False)]
    assert min(gaps) > 0.08


def test_a_wait_ends_when_somebody_asks_to_stop() -> None:
    with (
        serving(status(429, Retry_After="100")) as service,
        pytest.raises(EndpointError, match="stopped while waiting"),
    ):
        Endpoint(service.url, pace=Pace(stop=lambda: True)).post("chat/completions", BODY)


def test_the_key_travels_in_one_header_only() -> None:
    with serving() as service:
        said(service.url, key=KEY)
        assert service.headers[0]["Authorization"] == f"Bearer {KEY}"
        assert KEY not in str(service.requests)


def test_a_key_that_the_endpoint_repeats_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    echo = status(401, f"Incorrect API key provided: {KEY}.\x1b[2J\nYou can find it")
    with serving(echo) as service, pytest.raises(EndpointError, match=r"provided: \[key\]\. ") as refused:
        said(service.url, key=KEY)
    assert KEY not in str(refused.value)
    assert str(refused.value).isprintable()
    monkeypatch.setattr(Endpoint, "_shown", lambda self, words: words)
    with serving(echo) as service, pytest.raises(EndpointError) as leaked:
        said(service.url, key=KEY)
    assert KEY in str(leaked.value)


def test_a_redirect_does_not_get_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as elsewhere:
        away = text(302, "", Location=elsewhere.url)
        with serving(away) as service, pytest.raises(EndpointError, match="redirects"):
            said(service.url, key=KEY)
        assert elsewhere.headers == []
        monkeypatch.setattr(endpoint._NoRedirect, "redirect_request", endpoint._NoRedirect.__base__.redirect_request)  # type: ignore[union-attr]
        with serving(away) as service, pytest.raises(KeyError):
            said(service.url, key=KEY)
        assert elsewhere.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("ftp://host/v1", "begins with http"),
        ("https://", "names a host"),
        ("https://me:secret@host/v1", "a key belongs into the environment"),
        ("https://host/v1?key=secret", "a key belongs into the environment"),
        ("https://[half/v1", "cannot be read"),
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_without_repeating_it(url: str, line: str) -> None:
    with pytest.raises(EndpointError, match=line) as refused:
        Endpoint(url)
    assert "secret" not in str(refused.value)


def test_a_key_does_not_travel_unencrypted_beyond_this_machine() -> None:
    with pytest.raises(EndpointError, match=r"unencrypted to host\.example"):
        Endpoint("http://host.example/v1", key=KEY)
    Endpoint("https://host.example/v1", key=KEY)
    Endpoint("http://localhost:8000/v1", key=KEY)
    Endpoint("http://host.example/v1")


def test_a_key_that_no_header_can_carry_is_refused_without_repeating_it() -> None:
    with pytest.raises(EndpointError, match="no header can carry") as refused:
        Endpoint("https://host/v1", key="abc\r\nX-Other: 1")
    assert "abc" not in str(refused.value)


def test_an_answer_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "MAX_ANSWER_BYTES", 1000)
    with serving(chat("a" * 2000)) as service, pytest.raises(EndpointError, match="for one answer"):
        said(service.url)
