"""Two cards are compared where they measured the same, item by item, and nowhere else."""

from dataclasses import replace

import pytest

from sdk.build.evaluate import comparison
from sdk.build.evaluate.card import Leg
from sdk.build.evaluate.comparison import Difference, compare
from tests.sdk.build.evaluate.cards import card, shares


def found(changes: list[Difference]) -> dict[str, Difference]:
    return {change.figure: change for change in changes}


def test_a_model_beside_itself_is_equal_or_unclear() -> None:
    same = found(compare(card(), card()))
    assert {name: change.verdict for name, change in same.items() if change.verdict != "equal"} == {
        "cost.first_token_ms": "no clear difference",
        "cost.answer_ms": "no clear difference",
        "density.per_millisecond": "no clear difference",
    }


def test_scores_get_paired_intervals_and_a_verdict_by_what_is_better() -> None:
    change = found(compare(card(right=90), card(right=70)))
    grammar = change["blimp.accuracy"]
    assert grammar.change is not None
    assert grammar.change.value == pytest.approx(0.2)
    # 20 items that only one has right: a paired difference is a share of 20 in 100.
    assert grammar.change.high - grammar.change.low == pytest.approx(2 * 1.96 * (0.2 * 0.8 / 100) ** 0.5, rel=0.1)
    assert grammar.verdict == "better"
    assert found(compare(card(right=70), card(right=90)))["blimp.accuracy"].verdict == "worse"
    assert change["density.quality"].verdict == "better"


def test_fewer_bits_and_fewer_bytes_are_better() -> None:
    lighter = card(cost=Leg(facts={"size_megabytes": 50.0}))
    change = found(compare(lighter, card()))["cost.size_megabytes"]
    assert (change.change is not None, change.verdict) == (True, "better")
    bits = card().legs["text"].scores["bits_per_byte"]
    fewer = Leg(
        ids=card().legs["text"].ids,
        groups=card().legs["text"].groups,
        scores={"bits_per_byte": (tuple(value - 5 for value in bits[0]), bits[1])},
        key="sha256:2",
    )
    assert found(compare(card(text=fewer), card()))["text.bits_per_byte"].verdict == "better"


def test_other_items_or_settings_are_not_compared() -> None:
    other = found(compare(card(), card(blimp=shares(80, 100, key="sha256:9"))))
    assert other["blimp.accuracy"].verdict == "not compared"
    assert other["blimp.accuracy"].reason == "measured on other items or settings"
    assert other["density.quality"].mine == pytest.approx(100 * (0.8 + 0.2) / 2)  # BLiMP is left out of both.


def test_what_only_one_has_is_shown_and_not_compared() -> None:
    change = found(compare(card(), card(piqa=Leg(reason="skipped"))))["piqa.accuracy"]
    assert (change.mine, change.other, change.change) == (0.6, None, None)
    assert change.reason == "only one card has it"


def test_unpaired_items_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items in another order would make a paired interval of strangers: the guard that sees it is needed."""
    mine = shares(50, 100)
    turned = replace(mine, ids=mine.ids[::-1])
    assert found(compare(card(blimp=mine), card(blimp=turned)))["blimp.accuracy"].verdict == "not compared"
    monkeypatch.setattr(comparison, "_same_items", lambda mine, other: True)
    assert found(compare(card(blimp=mine), card(blimp=turned)))["blimp.accuracy"].verdict == "equal"


def test_timings_with_no_overlap_differ_clearly() -> None:
    fast = Leg(samples={"answer_ms": (1000.0, 1010.0, 990.0)}, key="sha256:3")
    assert found(compare(card(cost=fast), card()))["cost.answer_ms"].verdict == "better"


def test_a_handful_of_items_tells_nothing() -> None:
    few = found(compare(card(blimp=shares(9, 9)), card(blimp=shares(0, 9))))["blimp.accuracy"]
    assert (few.verdict, few.reason) == ("not compared", "fewer than 10 items count")
