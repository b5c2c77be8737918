"""AUC and true positives at a low false positive rate: closed forms, intervals that cover, and verdicts."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from privacy.audit import attack
from privacy.audit.membership import judge, judge_sight
from privacy.errors import AuditError


def gaussian(rng: np.random.Generator, count: int, separation: float) -> tuple[list[float], list[float]]:
    return list(rng.normal(size=count) + separation), list(rng.normal(size=count))


def test_an_auc_by_hand() -> None:
    """Of the 4 x 4 pairs 13 are in order: (0, 4, 6, 7) against (1, 2, 3, 5)."""
    assert attack([0, 4, 6, 7], [1, 2, 3, 5]).auc == pytest.approx(11 / 16)
    assert attack([1, 1], [1, 1]).auc == 0.5


def test_the_auc_of_two_normals_is_that_of_the_closed_form() -> None:
    inside, outside = gaussian(np.random.default_rng(0), 20_000, 1.0)
    found = attack(inside, outside, separation=1.0)
    assert found.auc_allowed == pytest.approx(norm.cdf(1 / math.sqrt(2)))
    assert found.auc == pytest.approx(found.auc_allowed, abs=0.01)


def test_true_positives_at_one_in_a_thousand_are_those_of_the_closed_form() -> None:
    inside, outside = gaussian(np.random.default_rng(1), 100_000, 2.0)
    found = attack(inside, outside, separation=2.0)
    assert found.resolved
    assert found.true_positive_rate_allowed == pytest.approx(norm.cdf(norm.ppf(0.001) + 2))  # 13.8 %
    assert found.true_positive_rate == pytest.approx(found.true_positive_rate_allowed, abs=0.02)


def test_too_few_strangers_are_called_too_few() -> None:
    inside, outside = gaussian(np.random.default_rng(2), 500, 1.0)
    found = attack(inside, outside)
    assert not found.resolved
    assert found.true_positive_rate == np.mean(np.array(inside) > max(outside))


def test_the_interval_of_the_auc_covers_the_truth_as_often_as_it_says() -> None:
    rng, truth, covered = np.random.default_rng(3), norm.cdf(1 / math.sqrt(2)), 0
    for _ in range(400):
        found = attack(*gaussian(rng, 100, 1.0))
        covered += found.auc_low <= truth <= found.auc_high
    assert covered / 400 == pytest.approx(0.95, abs=0.035)


def test_the_interval_of_the_true_positives_is_clopper_and_pearsons() -> None:
    """5 of 10 found: 18.7 % to 81.3 % (Clopper and Pearson 1934)."""
    found = attack([2.0] * 5 + [0.0] * 5, [1.0] * 10)
    assert (found.true_positive_rate_low, found.true_positive_rate_high) == pytest.approx((0.187, 0.813), abs=1e-3)


def test_a_perfect_attack_has_an_interval_too() -> None:
    """None of 20 wrong: at most 1 - 0.025^(1/20)."""
    found = attack([1.0] * 20, [0.0] * 20)
    assert (found.auc, found.auc_high, found.true_positive_rate) == (1.0, 1.0, 1.0)
    assert found.auc_low == pytest.approx(0.025 ** (1 / 20))
    assert attack([0.0] * 20, [1.0] * 20).auc_high == pytest.approx(1 - 0.025 ** (1 / 20))


def test_an_attack_as_good_as_the_claim_is_no_alarm_and_a_better_one_is() -> None:
    inside, outside = gaussian(np.random.default_rng(4), 500, 1.0)
    assert judge(attack(inside, outside, separation=1.0)).passed
    assert not judge(attack(inside, outside, separation=0.5)).passed
    assert not judge(attack(outside, inside, separation=0.5)).passed  # Its opposite is as good.
    assert not judge(attack([1.0] * 200, [0.0] * 200, separation=1.0)).passed
    assert judge(attack([1.0] * 3, [0.0] * 3, separation=1.0)).passed  # Three pairs prove nothing.


def test_a_blind_attack_is_called_blind() -> None:
    inside, outside = gaussian(np.random.default_rng(5), 500, 1.0)
    assert judge_sight(attack(inside, outside, separation=1.0)).passed
    blind = attack(*gaussian(np.random.default_rng(6), 500, 0.0), separation=1.0)
    assert judge(blind).passed
    assert not judge_sight(blind).passed


@pytest.mark.parametrize(("members", "strangers"), [([], [1.0, 2.0]), ([1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0])])
def test_too_few_scores_are_refused(members: list[float], strangers: list[float]) -> None:
    with pytest.raises(AuditError, match="2 members and 2 strangers"):
        attack(members, strangers)


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(AuditError, match="no number"):
        attack([1.0, math.nan], [0.0, 1.0])
