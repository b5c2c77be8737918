from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalize.errors import ExperienceError
from personalize.experience import MAX_TEXT_CHARS, Consent, Experience, Signal, plain

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
ANY_TEXT = st.text(st.characters(codec=None))


def test_time_is_kept_in_whole_utc_seconds() -> None:
    at = datetime(2024, 5, 1, 14, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=2)))
    experience = Experience(prompt="", answer="hello", at=at)
    assert experience.at == NOON
    assert experience.at.tzinfo is UTC


def test_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ExperienceError, match="has no zone; give one"):
        Experience(prompt="", answer="hello", at=datetime(2024, 5, 1))


def test_time_that_leaves_the_calendar_in_utc_is_refused() -> None:
    with pytest.raises(ExperienceError, match="outside the calendar"):
        Experience(prompt="", answer="hello", at=datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))))


@pytest.mark.parametrize("answer", ["", " \n", "\x1b", "\ud800"])
def test_answer_without_text_is_refused(answer: str) -> None:
    with pytest.raises(ExperienceError, match="answer is empty"):
        Experience(prompt="", answer=answer, at=NOON)


@pytest.mark.parametrize("field", ["prompt", "answer", "contact"])
def test_text_that_is_too_long_is_refused_and_measured(field: str) -> None:
    texts = {"prompt": "", "answer": "hello", "contact": "ana"} | {field: "x" * (MAX_TEXT_CHARS + 1)}
    with pytest.raises(ExperienceError, match=f"{field} has 100,001 characters"):
        Experience(prompt=texts["prompt"], answer=texts["answer"], contact=texts["contact"], at=NOON)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(ExperienceError, match="must be text, got bytes"):
        Experience(prompt="", answer=b"hello", at=NOON)  # type: ignore[arg-type]  # What a caller may do anyway.


@given(text=ANY_TEXT)
def test_plain_text_can_be_encoded_has_no_controls_and_stays_as_it_is(text: str) -> None:
    cleaned = plain(text)
    cleaned.encode()
    assert all(char.isprintable() or char in "\n\t" or ord(char) > 0x9F for char in cleaned)
    assert plain(cleaned) == cleaned


def test_terminal_escapes_overrides_and_surrogates_go_but_letters_and_emoji_stay() -> None:
    hostile = "a\x1b[31mb\u202ec\ud800d\r\ne\x00\tf 👩\u200d🔬 ñ"
    assert plain(hostile) == "a[31mbcd\ne\tf 👩\u200d🔬 ñ"


@pytest.mark.parametrize(
    ("signal", "consent", "learnable"),
    [
        (Signal.WRITTEN, Consent.LEARN, True),
        (Signal.EDITED, Consent.LEARN, True),
        (Signal.REJECTED, Consent.LEARN, False),
        (Signal.ACCEPTED, Consent.KEEP, False),
    ],
)
def test_only_what_the_user_lets_us_learn_and_did_not_reject_is_learnable(
    signal: Signal, consent: Consent, learnable: bool
) -> None:
    assert Experience(prompt="", answer="hello", at=NOON, signal=signal, consent=consent).learnable is learnable


def test_an_experience_does_not_change() -> None:
    experience = Experience(prompt="", answer="hello", at=NOON)
    with pytest.raises(FrozenInstanceError):
        experience.answer = "other"  # type: ignore[misc]
