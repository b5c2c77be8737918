"""What a gateway lets through: targets, dates, and nothing twice."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.device.oblivious.admission import DateWindow, SeenBefore, Targets
from sdk.device.oblivious.binary_http import Request

NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
TARGETS = Targets(["https://cloud.example/v1", "http://127.0.0.1:8000/v1"])


def dated(offset: float) -> str:
    return format_datetime(NOON + timedelta(seconds=offset), usegmt=True)


@pytest.mark.parametrize(("offset", "held"), [(-300, True), (-301, False), (0, True), (300, True), (301, False)])
def test_a_date_is_within_the_window_to_the_second(offset: float, held: bool) -> None:
    assert DateWindow(started=NOON - timedelta(days=1), seconds=300).holds(dated(offset), NOON) is held


@pytest.mark.parametrize(
    "date", [None, "", "yesterday", "Thu, 99 Nov 2026 12:00:00 GMT", "Tue, 24 Nov 9999 12:00:00 -2359"]
)
def test_no_date_or_none_that_can_be_read_is_refused(date: str | None) -> None:
    assert not DateWindow(started=NOON, seconds=300).holds(date, NOON)


def test_what_was_made_before_the_gateway_began_is_refused_since_nobody_remembers_it() -> None:
    window = DateWindow(started=NOON.replace(second=30), seconds=300)
    assert not window.holds(dated(-60), NOON + timedelta(seconds=40))
    assert window.holds(dated(0), NOON + timedelta(seconds=40))


def test_a_request_is_remembered_for_as_long_as_its_date_could_hold() -> None:
    seen = SeenBefore(seconds=600)
    assert seen.first_time(b"a", NOON)
    assert not seen.first_time(b"a", NOON + timedelta(seconds=600))
    assert seen.first_time(b"a", NOON + timedelta(seconds=601))


def test_a_full_memory_refuses_until_there_is_room() -> None:
    seen = SeenBefore(seconds=600, most=2)
    assert [seen.first_time(name, NOON) for name in (b"a", b"b", b"c")] == [True, True, False]
    assert seen.first_time(b"c", NOON + timedelta(seconds=601))


@pytest.mark.parametrize(
    ("method", "scheme", "authority", "path", "passes"),
    [
        ("POST", "https", "cloud.example", "/v1/chat/completions", True),
        ("POST", "https", "CLOUD.example", "/v1/chat/completions", True),
        ("GET", "http", "127.0.0.1:8000", "/v1/models", True),
        ("DELETE", "https", "cloud.example", "/v1/models", False),
        ("POST", "http", "cloud.example", "/v1/chat/completions", False),
        ("POST", "https", "cloud.example:444", "/v1/chat", False),
        ("POST", "https", "cloud.example.evil", "/v1/chat", False),
        ("POST", "https", "cloud.example", "/v1", False),
        ("POST", "https", "cloud.example", "/v10/chat", False),
        ("POST", "https", "cloud.example", "/v1/../admin", False),
        ("POST", "https", "cloud.example", "/v1/%2e%2e/admin", False),
        ("POST", "https", "cloud.example", "/v1//admin", False),
        ("POST", "https", "cloud.example", "/v1/.", False),
        ("POST", "https", "cloud.example", "/v1/a?x=1", False),
        ("POST", "https", "cloud.example", "*", False),
        ("POST", "http", "169.254.169.254", "/latest/meta-data", False),
    ],
)
def test_only_what_lies_below_a_target_passes(
    method: str, scheme: str, authority: str, path: str, passes: bool
) -> None:
    request = Request(method=method, scheme=scheme, authority=authority, path=path)
    assert (TARGETS.of(request) is not None) is passes


def test_a_host_header_stands_in_for_a_missing_authority() -> None:
    request = Request(method="GET", scheme="https", authority="", path="/v1/x", headers=(("host", "cloud.example"),))
    assert TARGETS.of(request) is not None


@given(st.text("/.%2eEv1\\;?#a", max_size=20))
def test_no_path_leads_out_of_a_target(path: str) -> None:
    request = Request(method="GET", scheme="https", authority="cloud.example", path=f"/{path}")
    if TARGETS.of(request) is not None:
        steps = request.path.split("/")
        assert steps[1] == "v1"
        assert not {".", "..", ""} & set(steps[1:])
        assert not set(request.path) & set("%\\;?#")
