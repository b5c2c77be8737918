"""The curriculum is distinct, valid, copied, split, deterministic and weighted."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from sdk.build.curriculum import assembly, read_examples, split, write_examples
from sdk.build.curriculum.actions import action
from sdk.build.curriculum.assembly import Curriculum, curriculum
from sdk.build.curriculum.examples import Example
from sdk.build.curriculum.grammar import SHARED
from sdk.build.curriculum.split import EVERYDAY, Side
from sdk.build.curriculum.wording import sections, words
from sdk.errors import CurriculumError, UnknownTaskError
from sdk.tasks import ACTIONS, STRUCTURED, TASKS, as_answer, read_answer, text_of

FREE = tuple(task for task in TASKS if task not in STRUCTURED)
CLOSED = EVERYDAY | {word.lower() for kind in SHARED for word in words()[kind]}


@pytest.fixture(scope="module")
def made() -> Curriculum:
    return curriculum(count=4000, held_out=600, seed=7)


def values(examples: tuple[Example, ...]) -> set[str]:
    """Every open value of the actions, but those few that both sides share by rule."""
    found = [
        value.lower()
        for one in examples
        if one.task == "action"
        for value in read_answer("action", one.answer).copied()
    ]
    return set(found) - CLOSED


def test_several_thousand_prompts_are_all_different(made: Curriculum) -> None:
    assert len({one.prompt for one in made.train}) == 4000
    assert len({one.prompt for one in made.held_out}) == 600


def test_structured_answers_fit_their_schema_in_the_fixed_form(made: Curriculum) -> None:
    for one in (*made.train, *made.held_out):
        if one.task in STRUCTURED:
            read = read_answer(one.task, one.answer)
            assert as_answer(read) == one.answer
            assert json.loads(one.answer)["action"] == one.schema


def test_every_open_value_stands_in_the_request(made: Curriculum) -> None:
    for one in (*made.train, *made.held_out):
        if one.task == "action":
            request = text_of("action", one.prompt)
            for value in read_answer("action", one.answer).copied():
                assert value in request or (value in EVERYDAY and value in request.lower()), one


def test_no_prompt_template_or_value_of_the_held_out_set_is_trained(made: Curriculum) -> None:
    assert {one.prompt for one in made.train}.isdisjoint(one.prompt for one in made.held_out)
    assert {one.template for one in made.train}.isdisjoint(one.template for one in made.held_out)
    assert len(values(made.held_out)) > 200
    assert values(made.train).isdisjoint(values(made.held_out))


def test_without_the_split_of_values_the_leak_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdk.build.curriculum.grammar.SHARED", frozenset(words()) | {"day", "time", "person", "people"})
    leaky = curriculum(count=1500, held_out=300, weights={"action": 1})
    assert not values(leaky.train).isdisjoint(values(leaky.held_out))


def test_without_the_split_of_templates_the_leak_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdk.build.curriculum.pairs.of_side", lambda templates, side: templates)
    leaky = curriculum(count=300, held_out=100, weights={"politer": 1})
    assert not {one.template for one in leaky.train}.isdisjoint(one.template for one in leaky.held_out)


def test_every_action_and_every_task_is_on_both_sides(made: Curriculum) -> None:
    for examples in (made.train, made.held_out):
        assert {one.schema for one in examples if one.task == "action"} == set(ACTIONS)
        assert {one.task for one in examples} == {"action", *FREE}


def test_free_text_is_finished_text(made: Curriculum) -> None:
    for one in (*made.train, *made.held_out):
        for text in (one.prompt, one.answer):
            assert not set("{}<>") & set(text) or one.task == "action", one
            assert "  " not in text or "\n--- " in text, one  # Lines of a diff are indented.
        assert one.answer == one.answer.strip() != ""


def test_a_summary_is_shorter_than_its_text_and_no_sentence_of_it(made: Curriculum) -> None:
    for one in made.train:
        if one.task == "summary":
            text = text_of("summary", one.prompt)
            assert len(one.answer) < len(text)
            assert one.answer not in text


def test_most_texts_to_correct_have_mistakes_and_some_have_none(made: Curriculum) -> None:
    same = [text_of(one.task, one.prompt) == one.answer for one in made.train if one.task == "proofread"]
    assert 0.05 < sum(same) / len(same) < 0.25


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_examples(tmp_path / name, curriculum(count=300, held_out=0, seed=seed).train)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_what_is_written_is_what_is_read(tmp_path: Path, made: Curriculum) -> None:
    write_examples(tmp_path / "set.jsonl", made.held_out)
    assert tuple(read_examples(tmp_path / "set.jsonl")) == made.held_out


@pytest.mark.parametrize("line", ["{", "[]", '{"format": "curriculum/9"}', '{"format": "curriculum/1", "task": 3}'])
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "set.jsonl").write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(CurriculumError, match=r"set.jsonl, line 1 is no example"):
        read_examples(tmp_path / "set.jsonl")


def test_weights_are_normalised_and_counts_add_up() -> None:
    train = curriculum(count=101, held_out=0, weights={"title": 2, "commit": 1, "reply": 0}).train
    assert Counter(one.task for one in train) == {"title": 67, "commit": 34}


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"title": -1.0}, "weight of title must be a number of at least 0, got -1"),
        ({"title": float("nan")}, "got nan"),
        ({"title": float("inf")}, "got inf"),
        ({"title": 0.0}, "no task has a weight above 0"),
        ({}, "no task has a weight above 0"),
        ({"intent": 1.0}, "needs the training files of SNIPS"),
    ],
)
def test_weights_that_cannot_be_used_are_one_clear_line(weights: dict[str, float], says: str) -> None:
    with pytest.raises(CurriculumError, match=says):
        curriculum(weights=weights)


def test_an_unknown_task_is_one_clear_line() -> None:
    with pytest.raises(UnknownTaskError, match="there is no task 'sing'"):
        curriculum(weights={"sing": 1})


def test_a_task_that_is_used_up_says_how_many_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    once: Callable[..., Example] = lambda side, rng: Example(task="title", prompt="p", answer="a", template="t")  # noqa: E731
    monkeypatch.setattr(assembly, "MAKERS", {"title": once})
    with pytest.raises(CurriculumError, match="title has 1 different prompts but 5 were asked for; lower"):
        curriculum(count=5, weights={"title": 1})


def test_a_value_stands_on_one_side_whatever_its_case_and_weekdays_are_trained() -> None:
    assert split.side_of("Anna Kowalski") is split.side_of("anna kowalski")
    assert {split.side_of(day) for day in words()["weekday"]} == {Side.TRAIN}


def test_a_group_of_templates_keeps_at_least_one_from_training() -> None:
    for size in range(2, 40):
        group = tuple(f"template {number}" for number in range(size))
        held_out = split.of_side(group, Side.HELD_OUT)
        assert 1 <= len(held_out) < size
        assert set(held_out) | set(split.of_side(group, Side.TRAIN)) == set(group)


def test_every_request_file_section_is_an_action_or_a_shared_piece() -> None:
    built = {"edit_photo", "change_setting", "control_home"}
    named = {name for name in sections("requests") if not name.startswith("<")}
    assert named | built == set(ACTIONS)


def test_requests_come_with_and_without_capitals() -> None:
    from random import Random

    rng = Random(0)
    requests = [text_of("action", action(Side.TRAIN, rng).prompt) for _ in range(200)]
    assert 20 < sum(text == text.lower() for text in requests) < 180
