"""Each check follows the published definition, on cases that pass and cases that do not."""

from typing import Any

import pytest

from sdk.build.evaluate.verifiers import CHECKS, NOT_SCORED, follows

THREE = "* one\n* two\n- three"
# kind, arguments, a response that follows, one that does not
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("change_case:english_capital", {}, "ALL OF IT, 3 TIMES.", "NOT ALL of it"),
    ("change_case:english_lowercase", {}, "all of it, 3 times.", "Not all"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say  hi"}, " SAY  HI\nhi", "Hi! Say  hi"),
    ("combination:two_responses", {}, "one\n******\ntwo\n******", "same ****** same"),
    ("combination:two_responses", {}, "******one******two", "one ****** ****** two"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] and [b c]", "[a] and (b)"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye\np. s. more", "Bye\nPS more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye\nP.P.S more", "Bye\nP.S. more"),
    ("detectable_format:constrained_response", {}, "Well. My answer is maybe.", "maybe"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', '{"a": 1} is it'),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\na\nSection 2\nb",
        "Section one\na\nSection 2",
    ),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}, THREE, THREE + "\n* four"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "* one\n** bold **", "text"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* and ** **"),
    ("detectable_format:title", {}, "<<A song>>\nla", "<< >>"),
    ("keywords:existence", {"keywords": ["Cat", "mat"]}, "the cat on the mat", "the cat"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "concatenate", "a Cat!"),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "at least"}, "cat concat", "cat"),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "less than"}, "cat", "cat cats"),
    ("keywords:letter_frequency", {"letter": "Q", "let_frequency": 2, "let_relation": "at least"}, "qQ", "q"),
    ("keywords:letter_frequency", {"letter": "q", "let_frequency": 1, "let_relation": "less than"}, "a", "Q"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        'a b\n\n"then, c',
        "a b\n\nthence c",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "well"},
        "Well. Yes",
        "Well\n\nYes",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb\n***", "a\n***\n \n***\nb"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "one, two-three", "one two"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "it's", "one two three"),
    ("punctuation:no_comma", {}, "a; b", "a, b"),
    ("startend:end_checker", {"end_phrase": "The End."}, 'So. "the end."', "The end. Or not"),
    ("startend:quotation", {}, '"all of it"', '"'),
]


@pytest.mark.parametrize(("kind", "wanted", "good", "bad"), CASES)
def test_a_check_tells_them_apart(kind: str, wanted: dict[str, Any], good: str, bad: str) -> None:
    assert follows(kind, wanted, good) is True
    assert follows(kind, wanted, bad) is False


def test_every_check_has_a_case() -> None:
    assert {kind for kind, *_ in CASES} == CHECKS.keys()


@pytest.mark.parametrize(("kind", "wanted"), [(kind, wanted) for kind, wanted, *_ in CASES])
def test_an_empty_response_follows_nothing(kind: str, wanted: dict[str, Any]) -> None:
    assert follows(kind, wanted, " \n") is False


@pytest.mark.parametrize("kind", [*sorted(NOT_SCORED), "a:new_kind"])
def test_what_cannot_be_checked_is_not_scored(kind: str) -> None:
    assert follows(kind, {}, "anything") is None
