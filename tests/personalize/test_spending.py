"""The chance of error of a home's whole life is spent, night by night and share by share, and never overspent."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from personalize import retention, spending
from personalize.retention import ALPHAS, compare
from personalize.spending import LIFETIME_LEVEL, level_of

NIGHTS, ITEMS, LIVES = 24, 40, 4_000
SHARES = len(ALPHAS)


def lives_with_an_error() -> int:
    """How many homes, of LIVES that see nothing but candidates exactly at the margin, let one of them in.

    Each share of each night is a candidate of its own, and each leg but one is beyond doubt: the worst case that the
    gate's promise covers. Scores are normal, where the t interval is exact.
    """
    rng = torch.Generator().manual_seed(24)
    draws = torch.randn(LIVES, NIGHTS, SHARES, ITEMS, generator=rng, dtype=torch.float64)
    t = draws.mean(-1) / (draws.std(-1, unbiased=True) / math.sqrt(ITEMS))  # (lives, nights, shares)
    wrong = torch.zeros(LIVES, dtype=torch.bool)
    for night, place in itertools.product(range(NIGHTS), range(SHARES)):
        level = spending.level_of(look=night + 1, place=place, shares=SHARES)
        wrong |= t[:, night, place] + float(stats.t.isf(level, ITEMS - 1)) < 0  # Upper bound below the margin.
    return int(wrong.sum())


def test_over_24_nights_of_all_shares_at_most_one_home_in_twenty_lets_a_harmful_adapter_in() -> None:
    wrong = lives_with_an_error()
    assert stats.binomtest(wrong, LIVES, LIFETIME_LEVEL, alternative="greater").pvalue > 1e-3
    assert wrong > 0.4 * LIFETIME_LEVEL * LIVES, "the level is spent, not hoarded"


@pytest.mark.parametrize(
    "mutant",
    [
        lambda *, look, place, shares, lifetime=LIFETIME_LEVEL: level_of(look=1, place=place, shares=shares),
        lambda *, look, place, shares, lifetime=LIFETIME_LEVEL: level_of(look=look, place=0, shares=1),
    ],
    ids=["every night is the first", "every share is the only one"],
)
def test_a_level_that_forgets_what_was_looked_at_is_caught(mutant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spending, "level_of", mutant)
    with pytest.raises(AssertionError):
        test_over_24_nights_of_all_shares_at_most_one_home_in_twenty_lets_a_harmful_adapter_in()


def test_the_simulated_test_is_the_gates_own() -> None:
    """The simulation's short cut says what `compare` says, at a level where both answers occur."""
    rng, said = torch.Generator().manual_seed(25), set()
    for _ in range(200):
        draws = 0.05 + 0.1 * torch.randn(ITEMS, generator=rng, dtype=torch.float64)
        (leg,) = compare({"a": torch.zeros(ITEMS)}, {"a": draws}, {"a": "u"}, {"u": 0.05}, level=0.2)
        t = (draws.mean() - 0.05) / (draws.std(unbiased=True) / math.sqrt(ITEMS))
        assert leg.passed == (float(t) + float(stats.t.isf(0.2, ITEMS - 1)) < 0)
        said.add(leg.passed)
    assert said == {True, False}


def test_the_gate_asks_each_share_of_each_night_at_its_own_level(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.nights import tiny_base, warm_adapter

    base, asked = tiny_base(), []
    real = retention.compare

    def noted(*scores: object, level: float, strata: object) -> object:
        asked.append(level)
        return real(*scores, level=level, strata=strata)  # type: ignore[arg-type]

    monkeypatch.setattr(retention, "compare", noted)
    harmful = warm_adapter(base.model, size=2.0)
    verdict, admitted = retention.admit(
        base.model, current=base.bare(), candidate=harmful, base=base.bare(), probes=base.gate(), look=3
    )
    assert admitted is None
    assert verdict.look == 3
    assert asked == [level_of(look=3, place=place, shares=4) for place in range(4)]
    assert {leg.level for leg in verdict.legs} == {asked[-1]}


def test_the_first_share_of_the_first_night_has_half_of_six_over_pi_squared_of_the_level() -> None:
    assert level_of(look=1, place=0, shares=4) == pytest.approx(0.05 * 6 / math.pi**2 / 2)
    assert level_of(look=1, place=0, shares=1) == pytest.approx(0.05 * 6 / math.pi**2)
    assert level_of(look=2, place=0, shares=4) == pytest.approx(level_of(look=1, place=0, shares=4) / 4)


@given(look=st.integers(1, 10_000), shares=st.integers(1, 12))
def test_a_nights_shares_add_up_to_the_nights_level(look: int, shares: int) -> None:
    levels = [level_of(look=look, place=place, shares=shares) for place in range(shares)]
    assert sum(levels) == pytest.approx(LIFETIME_LEVEL * 6 / (math.pi * look) ** 2)
    assert levels == sorted(levels, reverse=True)


def test_all_nights_together_never_pass_the_lifetime_level() -> None:
    spent = sum(level_of(look=look, place=0, shares=1) for look in range(1, 20_000))
    assert 0.9999 * LIFETIME_LEVEL < spent < LIFETIME_LEVEL


@pytest.mark.parametrize("wrong", [{"look": 0}, {"place": 4}, {"place": -1}, {"lifetime": 0.0}, {"lifetime": 1.0}])
def test_what_is_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        level_of(**{"look": 1, "place": 0, "shares": 4, **wrong})  # type: ignore[arg-type]
