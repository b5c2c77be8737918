from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalize.errors import SourceError
from personalize.experience import Consent, Experience
from personalize.sources.records import (
    MAX_ANSWER_CHARS,
    MAX_PROMPT_CHARS,
    MAX_RECORDS,
    MIN_RECORDS,
    check_not_too_many,
    is_robot,
    require_enough,
    timeline,
    usable,
)

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def said(answer: str, minutes: int = 0, consent: Consent = Consent.LEARN) -> Experience:
    return Experience(prompt="", answer=answer, at=NOON + timedelta(minutes=minutes), consent=consent)


@given(prompt=st.text(st.characters(codec=None)), answer=st.text(st.characters(codec=None)))
def test_any_text_becomes_a_short_plain_record_or_none(prompt: str, answer: str) -> None:
    record = usable(prompt=prompt * 40, answer=answer * 40, at=NOON)
    if record is not None:
        assert len(record.prompt) <= MAX_PROMPT_CHARS
        assert 0 < len(record.answer) <= MAX_ANSWER_CHARS
        assert record.answer == record.answer.strip()
        (record.prompt + record.answer).encode()


@pytest.mark.parametrize("answer", ["", "  \n ", "---", "…", "\x1b\x00", "\ud800", "🎉"])
def test_text_without_a_letter_or_digit_is_no_record(answer: str) -> None:
    assert usable(prompt="p", answer=answer, at=NOON) is None


def test_a_timeline_is_sorted_and_holds_each_text_once_at_its_first_time() -> None:
    found = [said("b", 2), None, said("a", 3), said("a", 1), said("c", 2)]
    assert [one.answer for one in timeline(found, lambda one: one.answer, "notes")] == ["a", "b", "c"]


def test_a_source_without_any_record_is_refused() -> None:
    with pytest.raises(
        SourceError, match=r"notes.txt has no usable text: 0 records found; give a source with at least 20"
    ):
        timeline([None, None], lambda one: one.answer, "notes.txt")


def test_a_source_with_too_few_records_is_refused_with_the_count() -> None:
    enough = [said(f"text {index}") for index in range(MIN_RECORDS)]
    require_enough(enough, "notes.txt")
    with pytest.raises(SourceError, match=r"^notes.txt has 19 usable records, fewer than 20; give a longer source$"):
        require_enough(enough[1:], "notes.txt")


def test_a_source_with_too_many_records_is_refused_with_the_count() -> None:
    check_not_too_many(MAX_RECORDS, "lines", "notes.txt")
    with pytest.raises(SourceError, match=r"^notes.txt has 50,001 lines, more than 50,000; give its newest part$"):
        check_not_too_many(MAX_RECORDS + 1, "lines", "notes.txt")


def test_records_that_may_not_be_learned_do_not_count_as_enough() -> None:
    with pytest.raises(SourceError, match="has 0 usable records"):
        require_enough([said(f"text {index}", consent=Consent.KEEP) for index in range(30)], "notes.txt")


@pytest.mark.parametrize(
    "author",
    [
        "dependabot[bot] <49699333+dependabot[bot]@users.noreply.github.com>",
        "Renovate Bot <bot@renovateapp.com>",
        "k8s-ci-robot <k8s@example.org>",
        "GitHub <noreply@github.com>",
        "pre-commit-ci <ci@example.org>",
        "Mail Delivery System <MAILER-DAEMON@example.org>",
        "shop <do-not-reply@shop.example>",
    ],
)
def test_programs_are_known_by_name_or_address(author: str) -> None:
    assert is_robot(author)


@pytest.mark.parametrize(
    "author",
    [
        "Anna Talbot <anna.talbot@example.org>",
        "Ana <123+ana@users.noreply.github.com>",
        "Abbot Botha <botha@abbott.example>",
        "Roberta <roberta@robotics.example>",
    ],
)
def test_people_are_not_taken_for_programs(author: str) -> None:
    assert not is_robot(author)
