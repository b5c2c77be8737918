"""The stated risk holds, for any head; a threshold taken without the correction breaks it."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.confidence.conformal import controlled

ITEMS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=80)


def risk_over_draws(threshold: Callable[..., float], *, items: int, risk: float, draws: int = 4000) -> float:
    """Share of draws in which one more answer, drawn like the calibration's, is wrong and kept.

    Half of all answers are wrong and their confidence says nothing, so that the bound is nearly reached.
    """
    rng = np.random.default_rng(3)
    lost = 0
    for _ in range(draws):
        said, wrong = rng.random(items + 1), rng.random(items + 1) < 0.5
        lost += bool(wrong[-1]) and said[-1] > threshold(said[:-1].tolist(), wrong[:-1].tolist(), risk=risk)
    return lost / draws


def without_correction(confidences: Sequence[float], wrong: Sequence[bool], *, risk: float) -> float:
    """What one would write first: the empirical share, as if the next answer were one of those seen."""
    worst = sorted((said for said, is_wrong in zip(confidences, wrong, strict=True) if is_wrong), reverse=True)
    most = int(risk * len(confidences))
    return worst[most] if len(worst) > most else 0.0


@pytest.mark.parametrize("items", [19, 30, 59])
def test_the_chance_that_the_next_answer_is_wrong_and_kept_is_at_most_the_risk(items: int) -> None:
    found = risk_over_draws(controlled, items=items, risk=0.05)
    assert found <= 0.05 + 3 * (0.05 * 0.95 / 4000) ** 0.5


def test_the_bound_is_not_bought_by_keeping_nothing() -> None:
    assert risk_over_draws(controlled, items=59, risk=0.05) >= 0.03


def test_the_risk_is_missed_without_the_correction_for_the_next_answer() -> None:
    assert risk_over_draws(without_correction, items=30, risk=0.05) > 0.05 + 3 * (0.05 * 0.95 / 4000) ** 0.5


@given(items=ITEMS, risk=st.floats(0.01, 0.5))
def test_the_threshold_is_the_smallest_that_the_rule_allows(items: list[tuple[float, bool]], risk: float) -> None:
    said, wrong = [one for one, _ in items], [one for _, one in items]
    threshold = controlled(said, wrong, risk=risk)

    def corrected(at: float) -> float:
        return (sum(bad and one > at for one, bad in items) + 1) / (len(items) + 1)

    if threshold < 1:
        assert corrected(threshold) <= risk + 1e-9
    smaller = [one for one in {0.0, *said} if one < threshold]
    assert all(corrected(one) > risk - 1e-9 for one in smaller)


@given(items=ITEMS, risk=st.floats(0.01, 0.4))
def test_a_higher_risk_never_keeps_less(items: list[tuple[float, bool]], risk: float) -> None:
    said, wrong = [one for one, _ in items], [one for _, one in items]
    assert controlled(said, wrong, risk=risk + 0.1) <= controlled(said, wrong, risk=risk)


def test_too_few_answers_keep_nothing() -> None:
    assert controlled([0.9] * 18, [False] * 18, risk=0.05) == 1.0
    assert controlled([0.9] * 19, [False] * 19, risk=0.05) == 0.0


@pytest.mark.parametrize("risk", [0.0, 1.0, -0.1])
def test_a_risk_that_is_none_is_refused(risk: float) -> None:
    with pytest.raises(ValueError, match="risk"):
        controlled([0.5], [True], risk=risk)
