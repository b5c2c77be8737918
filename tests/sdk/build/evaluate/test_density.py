"""Quality is the mean above chance of the legs that ran; density divides it by an answer's time and energy."""

import pytest

from sdk.build.evaluate import density
from sdk.build.evaluate.card import Leg
from sdk.build.evaluate.density import experience_density, quality_legs
from tests.sdk.build.evaluate.cards import card, shares


def test_quality_and_density_are_what_the_formulas_say() -> None:
    found = experience_density(card())
    # SNIPS 0.8 against 0; BLiMP 0.8 and PIQA 0.6 against one half.
    quality = 100 * (0.8 + 0.6 + 0.2) / 3
    assert found["quality"].value == pytest.approx(quality)
    assert found["per_millisecond"].value == pytest.approx(quality / 2000)
    assert found["per_joule"].value == pytest.approx(quality / 0.5)
    for made in found.values():
        assert made.low < made.value < made.high


def test_its_interval_is_that_of_a_mean_of_independent_legs() -> None:
    made = experience_density(card())["quality"]
    spread = ((0.8 * 0.2 + (0.8 * 0.2 + 0.6 * 0.4) * 4) / 100) ** 0.5 / 3 * 100
    assert made.high - made.low == pytest.approx(2 * 1.96 * spread, rel=0.08)


def test_guessing_is_worth_nothing() -> None:
    guessing = card(snips=shares(0, 100, score="exact"), blimp=shares(50, 100), piqa=shares(50, 100))
    assert experience_density(guessing)["quality"].value == pytest.approx(0)


def test_what_did_not_run_does_not_count_as_zero() -> None:
    without = card(snips=Leg(reason="skipped"), cost=Leg(reason="skipped"))
    assert quality_legs(without) == ("blimp", "piqa")
    found = experience_density(without)
    assert found["quality"].value == pytest.approx(100 * (0.6 + 0.2) / 2)
    assert "per_millisecond" not in found
    nothing = card(snips=Leg(reason="skipped"), blimp=Leg(reason="skipped"), piqa=Leg(reason="skipped"))
    assert experience_density(nothing) == {}


def test_a_leg_that_counts_as_zero_when_not_run_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    without = card(snips=Leg(reason="skipped"))
    right = experience_density(without)["quality"].value
    monkeypatch.setattr(density, "_counts", lambda leg, score: True)
    with pytest.raises(KeyError):  # It has no items, so it cannot even be averaged in.
        experience_density(without)
    assert right == pytest.approx(40)
