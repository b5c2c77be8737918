"""Scores agree with figures worked out by hand."""

import pytest

from sdk.errors import AnswerError, UnknownTaskError
from sdk.scoring import COUNTS, HEADLINE, averaged, edits, is_right, rouge_l, score
from sdk.tasks import TASKS, prompt

ASKED = prompt("action", "meet Anna on Friday at 3pm")
WANTED = '{"action":"schedule_meeting","with":"Anna","day":"Friday","time":"3pm"}'


def test_the_right_action_scores_full_marks_in_any_spacing_and_order() -> None:
    spaced = ' {"time": "3pm", "day": "Friday", "with": "Anna", "action": "schedule_meeting"}\n'
    scored = score("action", spaced, WANTED, prompt=ASKED)
    assert scored == {
        "exact": 1, "valid": 1, "named": 1, "copied": 1, "slots_right": 3, "slots_said": 3, "slots_wanted": 3,
    }  # fmt: skip


def test_a_miscopied_value_is_seen_in_exact_slots_and_copied() -> None:
    scored = score("action", WANTED.replace("Anna", "Annna"), WANTED, prompt=ASKED)
    assert (scored["exact"], scored["slots_right"], scored["slots_said"]) == (0, 2, 3)
    assert scored["copied"] == pytest.approx(2 / 3)


def test_no_json_is_invalid_and_says_no_slot() -> None:
    scored = score("action", "Sure!", WANTED, prompt=ASKED)
    assert (scored["valid"], scored["exact"], scored["slots_said"], scored["slots_wanted"]) == (0, 0, 0, 3)


def test_slot_f1_sums_before_it_divides() -> None:
    scores = [
        score("action", WANTED, WANTED, prompt=ASKED),  # 3 of 3 said, 3 wanted.
        score("action", '{"action":"none"}', WANTED, prompt=ASKED),  # None said, 3 wanted.
    ]
    figures = averaged("action", scores)
    assert (figures["precision"], figures["recall"]) == (1, 0.5)
    assert figures["f1"] == pytest.approx(2 / 3)
    assert (figures["exact"], figures["items"]) == (0.5, 2)


def test_a_slot_that_occurs_twice_counts_twice() -> None:
    asked = prompt("intent", "songs and albums")
    wanted = '{"intent":"Find","slots":{"type":["songs","albums"]}}'
    scored = score("intent", '{"intent":"Find","slots":{"type":"songs"}}', wanted, prompt=asked)
    assert (scored["named"], scored["slots_right"], scored["slots_said"], scored["slots_wanted"]) == (1, 1, 1, 2)


def test_rouge_l_is_the_longest_common_subsequence_of_words() -> None:
    # Lin 2004, section 3.1: S1 "police killed the gunman", S2 "police kill the gunman": 3 of 4 words, so F is 3/4;
    # S3 "the gunman kill police": 2 of 4.
    assert rouge_l("police kill the gunman", "police killed the gunman") == 0.75
    assert rouge_l("the gunman kill police", "police killed the gunman") == 0.5
    assert rouge_l("", "word") == 0
    assert rouge_l("Same.", "same.") == 1


def test_corrections_are_edits_against_the_text_that_was_given() -> None:
    assert edits("He go home", "He goes home.") == {(1, 2, "goes"): 1, (3, 3, "."): 1}
    asked = prompt("proofread", "He go home to to rest")
    whole = score("proofread", "He goes home to rest", "He goes home to rest", prompt=asked)
    assert (whole["exact"], whole["edits_right"], whole["edits_made"], whole["edits_wanted"]) == (1, 2, 2, 2)
    half = averaged("proofread", [score("proofread", "He goes home to to rest", "He goes home to rest", prompt=asked)])
    # One right edit of one made and two wanted: F0.5 = 1.25 * 1 * 0.5 / (0.25 * 1 + 0.5).
    assert half["f0_5"] == pytest.approx(1.25 * 0.5 / 0.75)


def test_leaving_a_right_text_alone_is_no_mistake() -> None:
    asked = prompt("proofread", "All is well.")
    assert averaged("proofread", [score("proofread", "All is well.", "All is well.", prompt=asked)])["f0_5"] == 1
    worse = averaged("proofread", [score("proofread", "All are well.", "All is well.", prompt=asked)])
    assert worse["f0_5"] == 0


@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("action", "intent")])
def test_each_task_has_its_headline_between_nothing_and_everything_right(task: str) -> None:
    asked = prompt(task, "their is rain in Oslo")
    full = averaged(task, [score(task, "There is rain in Oslo", "There is rain in Oslo", prompt=asked)])
    none = averaged(task, [score(task, "xx", "There is rain in Oslo", prompt=asked)])
    assert (full[HEADLINE[task]], none[HEADLINE[task]]) == (1, 0)
    assert not set(full) & set(COUNTS)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UnknownTaskError):
        score("sing", "a", "b", prompt="c")
    with pytest.raises(AnswerError):
        score("action", WANTED, "no JSON", prompt=ASKED)
    with pytest.raises(ValueError, match="no prompt of action"):
        score("action", WANTED, WANTED, prompt="something else")
    with pytest.raises(ValueError, match="no scores of title"):
        averaged("title", [])


@pytest.mark.parametrize(
    ("task", "text", "wanted", "answer", "right"),
    [
        ("action", "call Ana", '{"action":"call","to":"Ana"}', '{"action":"call","to":"Ana"}', True),
        ("action", "call Ana", '{"action":"call","to":"Ana"}', '{"action":"call","to":"Bo"}', False),
        ("action", "call Ana", '{"action":"call","to":"Ana"}', "no json", False),
        ("reply", "Lunch?", "see you at noon", "See you at noon then", True),
        ("reply", "Lunch?", "see you at noon", "never again", False),
        ("proofread", "he go home", "He goes home", "He goes home", True),
        ("proofread", "he go home", "He goes home", "he go home", False),
    ],
)
def test_what_counts_as_right(task: str, text: str, wanted: str, answer: str, right: bool) -> None:
    assert is_right(task, answer, wanted, prompt=prompt(task, text)) is right
