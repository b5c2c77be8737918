"""Nothing leaves without a yes; a yes is for these bytes, this host and one use."""

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalize import Home
from sdk.device.handoff.consent import KINDS_MOST, Consent, Permission, Preview, canonical
from sdk.errors import ConsentError

PREVIEW = Preview(kind="summary", host="big.example", content=canonical([{"role": "user", "content": "hé"}]))


def yes(preview: Preview) -> bool:
    return True


@pytest.fixture
def consent(tmp_path: Path) -> Consent:
    return Consent.open(Home.open(tmp_path / "home"))


def test_a_new_home_sends_nothing_unless_the_request_is_permitted(consent: Consent) -> None:
    assert consent.standing == "ask"
    assert consent.asked(PREVIEW) is None
    assert consent.asked(PREVIEW, lambda preview: False) is None
    assert consent.asked(PREVIEW, yes) is not None


@pytest.mark.parametrize("answer", ["yes", 1, object()])
def test_only_true_is_a_yes(consent: Consent, answer: object) -> None:
    assert consent.asked(PREVIEW, lambda preview: answer) is None  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("standing", "kind", "without_asking"),
    [
        ("ask", None, False), ("ask", "allow", True), ("ask", "deny", False),
        ("always", None, True), ("always", "allow", True), ("always", "deny", False),
        ("never", None, False), ("never", "allow", False), ("never", "deny", False),
    ],
)  # fmt: skip
def test_every_pair_of_answers(consent: Consent, standing: str, kind: str | None, without_asking: bool) -> None:
    said = consent.with_standing(standing)  # type: ignore[arg-type]
    if kind is not None:
        said = said.with_kind("summary", kind)  # type: ignore[arg-type]
    assert (said.asked(PREVIEW) is not None) is without_asking
    shown: list[Preview] = []
    said.asked(PREVIEW, lambda preview: shown.append(preview) is not None)  # type: ignore[func-returns-value]
    assert bool(shown) is (standing == "ask" and kind is None)


def test_answers_survive_and_can_be_forgotten(consent: Consent) -> None:
    consent.with_standing("always").with_kind("summary", "deny")
    again = Consent.open(consent.home)
    assert again.to_dict() == {"format": "consent/1", "standing": "always", "kinds": {"summary": "deny"}}
    assert Consent.open(again.with_kind("summary", None).home).kinds == {}


def test_what_was_withdrawn_elsewhere_counts_at_once(consent: Consent) -> None:
    running = consent.with_standing("always")
    Consent.open(consent.home).with_standing("never")
    assert running.asked(PREVIEW, yes) is None


def test_a_consent_that_trusted_its_memory_would_be_caught(consent: Consent, monkeypatch: pytest.MonkeyPatch) -> None:
    running = consent.with_standing("always")
    Consent.open(consent.home).with_standing("never")
    monkeypatch.setattr(Consent, "open", lambda home: running)
    assert running.asked(PREVIEW, yes) is not None  # The seeded mistake: what the test above refuses.


def test_a_permission_is_used_once_for_its_host_and_its_bytes(consent: Consent) -> None:
    def permission() -> Permission:
        made = consent.asked(PREVIEW, yes)
        assert made is not None
        return made

    once = permission()
    once.spend("big.example", PREVIEW.content)
    with pytest.raises(ConsentError, match="used already"):
        once.spend("big.example", PREVIEW.content)
    with pytest.raises(ConsentError, match="not for other"):
        permission().spend("other.example", PREVIEW.content)
    wrong = permission()
    with pytest.raises(ConsentError, match="not the bytes"):
        wrong.spend("big.example", PREVIEW.content + b" ")
    with pytest.raises(ConsentError, match="used already"):
        wrong.spend("big.example", PREVIEW.content)


def test_of_many_threads_one_uses_a_permission(consent: Consent) -> None:
    permission = consent.asked(PREVIEW, yes)
    assert permission is not None
    used: list[int] = []

    def spend(number: int) -> None:
        try:
            permission.spend("big.example", PREVIEW.content)
        except ConsentError:
            return
        used.append(number)

    threads = [threading.Thread(target=spend, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(used) == 1


def test_nobody_else_makes_a_permission() -> None:
    with pytest.raises(ConsentError, match="made by Consent"):
        Permission(PREVIEW, "I say so")


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"null", b"[]", b"\xff\xfe", b'{"format": "consent/2"}', b'{"format": "consent/1"}',
        b'{"format": "consent/1", "standing": "yes", "kinds": {}}',
        b'{"format": "consent/1", "standing": "always", "kinds": {"a": "perhaps"}}',
        b'{"format": "consent/1", "standing": "always", "kinds": {"../x": "allow"}}',
        b'{"format": "consent/1", "standing": "always", "kinds": 3}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_file_is_a_refusal_and_never_a_yes(consent: Consent, damage: bytes) -> None:
    consent.home.put("consent.json", damage)
    with pytest.raises(ConsentError) as refused:
        Consent.open(consent.home)
    assert "\n" not in str(refused.value)
    with pytest.raises(ConsentError):
        consent.asked(PREVIEW, yes)


@pytest.mark.parametrize("kind", ["", "Summary", "a b", "../x", "a" * 33, "é"])
def test_what_names_no_kind_is_refused(consent: Consent, kind: str) -> None:
    with pytest.raises(ConsentError):
        consent.with_kind(kind, "allow")
    with pytest.raises(ConsentError):
        consent.asked(Preview(kind=kind, host="h", content=b""), yes)


def test_kinds_have_an_end(consent: Consent) -> None:
    for number in range(KINDS_MOST):
        consent = consent.with_kind(f"k{number}", "deny")
    with pytest.raises(ConsentError, match="at most"):
        consent.with_kind("one-more", "deny")
    assert len(Consent.open(consent.home).kinds) == KINDS_MOST


@given(text=st.text(max_size=60))
def test_the_preview_shows_every_byte_and_cannot_steer_a_terminal(text: str) -> None:
    messages = [{"role": "user", "content": text.encode("utf-8", "ignore").decode()}]
    preview = Preview(kind="x", host="h", content=canonical(messages))
    head, _, shown = preview.text().partition("\n")
    assert head.startswith(f"{len(preview.content)} bytes to h")
    assert shown.isprintable()
    assert json.loads(preview.content) == messages
