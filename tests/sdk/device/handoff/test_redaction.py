"""What is listed or personal is gone from what would leave, and comes back into the answer; nothing else changes."""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sdk.device.handoff import placeholders, redaction
from sdk.device.handoff.found import Span, iban_holds, luhn_holds
from sdk.device.handoff.listed import EVERYDAY, Listed, folded
from sdk.device.handoff.redaction import MAX_CHARACTERS, redact, redact_all
from sdk.errors import RedactionError

WORDS = (
    "call", "the", "dinner", "with", "[person 1]", "PERSON_1", "id-5", "[", "]", "_", "1", "xx", "\n", "'s", "Ana",
    "Kos", "ana kos", "ANA", "René", "Rene\u0301", "李明", "ana.kos@example.org", "415 555 2671", "4111 1111 1111 1111",
    "GB29 NWBK 6016 1331 9268 19", "192.168.0.7", "http://u:p@h/x", "born 12 May 1984", "12 Elm Street", "078-05-1120",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(WORDS), max_size=14).flatmap(
    lambda words: st.sampled_from([" ", "", ", "]).map(lambda joint: joint.join(words))
)
NAMES = ("Ana Kos", "René Dubois", "李明")


@given(text=st.one_of(TEXTS, st.text(max_size=80)))
@example(text="Ana078-05-1120PERSON_1")  # A placeholder only once what stands before it is gone.
def test_what_was_taken_out_comes_back_byte_for_byte(text: str) -> None:
    redacted = redact(text, NAMES)
    assert redacted.restored(redacted.text) == text


@given(text=TEXTS)
def test_no_listed_name_or_part_of_one_is_left(text: str) -> None:
    left = re.sub(r"\[[A-Z]+_X*\d+(?:_\d+)?\]", " ", redact(text, NAMES).text)
    assert list(Listed.of(NAMES).spans(left)) == []
    words = re.findall("[^\\W_](?:[^\\W_]|[\u0300-\u036f])*", folded(left))
    assert not {"ana", "kos", "rene", "dubois"} & set(words)
    assert "李明" not in left


@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_a_value_has_one_placeholder_and_a_placeholder_one_value(texts: list[str]) -> None:
    redacted = redact_all(texts, NAMES)
    assert len(set(redacted.entries.values())) == len(redacted.entries)
    assert [redacted.restored(text) for text in redacted.texts] == texts


@given(text=st.text(alphabet=st.characters(codec="ascii", exclude_characters="@"), max_size=60))
def test_text_around_what_is_replaced_is_kept(text: str) -> None:
    redacted = redact(text)
    at = 0
    for piece in re.split("|".join(map(re.escape, redacted.placeholders)) or r"(?!)", redacted.text):
        at = text.index(piece, at) + len(piece)


def test_the_property_catches_placeholders_that_ignore_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "mark_for", lambda texts: "")
    text = "PERSON_1 saw Ana Kos"
    redacted = redact(text, NAMES)
    assert redacted.restored(redacted.text) != text


def test_forms_of_one_person_share_a_number() -> None:
    redacted = redact("Ask Ana Kos. ANA knows, and so does Kos. Bo Li does not.", ["Ana Kos", "Bo Li"])
    assert redacted.text == (
        "Ask [PERSON_1]. [PERSON_1_2] knows, and so does [PERSON_1_3]. [PERSON_2] does not."
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "restored"),
    [
        ("Dear [PERSON_1],", "Dear Ana,"),
        ("[PERSON_1]'s and PERSON_1's", "Ana's and Ana's"),
        ("**[person_1]** and person_1", "**Ana** and Ana"),
        (r"PERSON\_1 and [PERSON 1] and [Person-1]", "Ana and Ana and Ana"),
        ("[PERSON_1]s Haus, PERSON_1s Haus", "Anas Haus, Anas Haus"),
        ("[PERSON_11] PERSON_12 [PERSON_2] person 1", "[PERSON_11] PERSON_12 [PERSON_2] person 1"),
        ("XPERSON_1", "XPERSON_1"),
    ],
)
def test_an_answer_reads_naturally(answer: str, restored: str) -> None:
    assert redact("Ana", ["Ana"]).restored(answer) == restored


def test_values_inside_json_come_back_and_keys_stay() -> None:
    redacted = redact('my password is "a\\b', ())
    value = {"[SECRET_1]": ["use [SECRET_1]", 3, None]}
    assert redacted.restored_value(value) == {"[SECRET_1]": ['use "a\\b', 3, None]}


def test_an_everyday_word_that_is_a_name_is_found_with_a_capital_only() -> None:
    assert "will" in EVERYDAY
    assert redact("I will ask Will and WILL", ["Will"]).text == "I will ask [PERSON_1] and [PERSON_1_2]"


@pytest.mark.parametrize(
    "written", ["ana kos", "ANA KOS", "Ana\nKos", "ana.kos", "ana_kos", "Ana-Kos", "A\u0301na Kos", "Ána Kós"]
)
def test_a_name_is_found_however_it_is_written(written: str) -> None:
    assert redact(f"see {written} now", ["Ana Kos"]).text == "see [PERSON_1] now"


@pytest.mark.parametrize(
    "contact", ["Ana Kos <ana.kos@kos.example>", "ana.kos@kos.example", "Ana_Kos7+notes@mail.example", "ana kos"]
)
def test_of_a_contact_the_person_is_replaced_and_not_where_their_mail_is_kept(contact: str) -> None:
    said = "Ana said that Kos has a mail at an example"
    assert redact(said, [contact]).text == "[PERSON_1] said that [PERSON_1_2] has a mail at an example"


@pytest.mark.parametrize("contact", ["info@kos.example", "+41 79 123 45 67", "team.support@mail.example"])
def test_an_office_or_a_number_is_nobodys_name(contact: str) -> None:
    said = "our team has 123 mails of support at kos"
    assert redact(said, [contact]).text == said


def test_a_name_inside_another_word_is_left() -> None:
    assert redact("banana Anatol kosmos", ["Ana Kos"]).text == "banana Anatol kosmos"


@pytest.mark.parametrize("digits", ["4111111111111111", "5500005555555559", "378282246310005", "6011111111111117"])
def test_luhn_holds_for_the_networks_test_numbers_and_not_for_a_slip(digits: str) -> None:
    assert luhn_holds(digits)
    for place in range(len(digits)):
        assert not luhn_holds(digits[:place] + str((int(digits[place]) + 1) % 10) + digits[place + 1 :])


@pytest.mark.parametrize(
    "code", ["GB82 WEST 1234 5698 7654 32", "DE89370400440532013000", "FR1420041010050500013M02606"]
)
def test_iban_holds_for_the_registrys_examples_and_not_for_a_slip(code: str) -> None:
    assert iban_holds(code)
    assert not iban_holds(code[:-1] + str((int(code[-1]) + 1) % 10))


def test_a_card_is_found_though_more_digits_follow() -> None:
    assert redact("4111 1111 1111 1111 123").text == "[CARD_1] 123"


@pytest.mark.parametrize("texts", [[], ["x" * (MAX_CHARACTERS + 1)], ["x" * MAX_CHARACTERS, "y"]])
def test_nothing_or_too_much_is_refused(texts: list[str]) -> None:
    with pytest.raises(RedactionError, match="cannot be redacted"):
        redact_all(texts)


@pytest.mark.parametrize("names", [["x" * 101], [f"name{number}" for number in range(10_001)]])
def test_names_that_cannot_be_looked_for_are_refused(names: list[str]) -> None:
    with pytest.raises(RedactionError, match="nothing may leave"):
        redact("x", names)


def test_names_of_no_letters_are_passed_over() -> None:
    assert redact("a - b", ["-", "", "  "]).text == "a - b"


def covered(spans: list[Span]) -> set[int]:
    return {at for span in spans for at in range(span.start, span.end)}


@given(spans=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=8))
def test_merged_spans_cover_the_same_letters_and_never_overlap(spans: list[tuple[int, int]]) -> None:
    given_spans = [Span(start, start + length, "ID") for start, length in spans]
    merged = redaction._merged(given_spans)
    assert covered(merged) == covered(given_spans)
    assert all(one.end <= after.start for one, after in pairwise(merged))


def test_every_kind_that_is_found_has_a_placeholder() -> None:
    from sdk.device.handoff.found import PATTERNS

    assert {kind for kind, _, _ in PATTERNS} | {"PHONE", "PERSON"} == set(placeholders.KINDS)
