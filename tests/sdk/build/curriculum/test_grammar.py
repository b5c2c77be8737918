"""Templates are filled with words of one side; mistakes change a text in the way that they name."""

from random import Random

import pytest

from sdk.build.curriculum.grammar import fill, pick
from sdk.build.curriculum.mistakes import MISTAKES, spoiled
from sdk.build.curriculum.split import Side, side_of
from sdk.build.curriculum.wording import sections
from sdk.build.curriculum.words import WORDS

WORD_LIST = {
    "who": ["Ana", "Ben", "Cleo", "Dan"],
    "when": ["on |Friday", "tomorrow"],
    "gift": ["{who}'s {thing}"],
    "thing": ["egg"],
}


def test_choices_slots_and_what_stands_before_a_value() -> None:
    filled = fill("(meet|meet) {with:who} {when} and {with:who}", WORD_LIST, None, Random(1))
    name = filled.slots["with"]
    assert filled.text in (f"meet {name} on Friday and {name}", f"meet {name} tomorrow and {name}")
    assert filled.slots["when"] in ("Friday", "tomorrow")


def test_numbered_slots_hold_different_words() -> None:
    for seed in range(50):
        slots = fill("{who} {who2} {who3}", WORD_LIST, None, Random(seed)).slots
        assert len(set(slots.values())) == 3


def test_words_may_hold_slots_and_articles_follow_them() -> None:
    assert fill("a {thing} and a {gift}", WORD_LIST, None, Random(0)).text.startswith("an egg and a")


@pytest.mark.parametrize("side", list(Side))
def test_a_value_is_of_the_side_that_was_asked_for(side: Side) -> None:
    rng = Random(3)
    assert {side_of(pick("person", WORDS, side, rng)[1]) for _ in range(200)} == {side}


def test_a_kind_without_words_of_a_side_says_so() -> None:
    with pytest.raises(ValueError, match="no thing of the side"):
        pick("thing", WORD_LIST, Side.HELD_OUT if side_of("egg") is Side.TRAIN else Side.TRAIN, Random(0))


@pytest.mark.parametrize("sort", sorted(MISTAKES))
def test_every_sort_of_mistake_changes_some_sentence(sort: str) -> None:
    sentences = [fill(text, WORDS, None, Random(4)).text for text in sections("sentences")["sentences"]]
    changed = [MISTAKES[sort](text, Random(5)) != text for text in sentences]
    assert any(changed)


def test_no_mistakes_leave_a_text_alone_and_more_change_it() -> None:
    text = "It's too late to call Ana, so I will write an email to their office."
    assert spoiled(text, 0, Random(0)) == text
    assert all(spoiled(text, 2, Random(seed)) != text for seed in range(30))


def test_a_name_is_never_misspelt() -> None:
    for sort in ("swapped letters", "dropped letter", "doubled letter", "wrong key"):
        assert all("Aleksandra" in MISTAKES[sort]("Aleksandra lives there", Random(seed)) for seed in range(30))
