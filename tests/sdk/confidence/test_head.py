"""The head finds the weights that made the data, and says chances that come true."""

import json

import numpy as np
import pytest

from sdk.confidence import FEATURES, Head
from sdk.errors import RouterError

WEIGHTS = np.array([1.5, -2.0, 0.0])


def drawn(count: int, seed: int = 1) -> tuple[list[list[float]], list[bool]]:
    """Rows and verdicts of a known logistic law with intercept 0.5."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 3))
    chance = 1 / (1 + np.exp(-(rows @ WEIGHTS + 0.5)))
    return rows.tolist(), (rng.random(count) < chance).tolist()


def fitted(count: int = 20_000) -> Head:
    rows, right = drawn(count)
    return Head.fit(rows, right, features=FEATURES[:3])


def test_the_weights_that_made_the_data_are_found() -> None:
    head = fitted()
    assert head.weights == pytest.approx(WEIGHTS, abs=0.1)
    assert head.intercept == pytest.approx(0.5, abs=0.1)


def test_chances_come_true() -> None:
    head = fitted()
    rows, right = drawn(20_000, seed=2)
    told = np.array([head.confidence(row) for row in rows])
    for low in (0.1, 0.3, 0.5, 0.7, 0.9):
        inside = (told > low - 0.1) & (told <= low + 0.1)
        assert np.mean(np.array(right)[inside]) == pytest.approx(told[inside].mean(), abs=0.04)


def test_the_slope_of_the_penalised_likelihood_is_zero_at_the_fit() -> None:
    rows, right = drawn(200)
    head = Head.fit(rows, right, features=FEATURES[:3])
    told = np.array([head.confidence(row) for row in rows])
    scale = np.std(rows, axis=0)
    slope = (np.array(rows) - np.mean(rows, axis=0)).T @ (told - np.array(right)) / scale
    assert slope + np.array(head.weights) * scale == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("verdict", [True, False])
def test_answers_that_are_all_alike_and_a_feature_that_never_varies_give_a_finite_head(verdict: bool) -> None:
    head = Head.fit([[0.0, 1.0]] * 30, [verdict] * 30, features=FEATURES[:2])
    assert (head.confidence([0.0, 1.0]) > 0.9) is verdict
    assert head.weights == (0.0, 0.0)


def test_what_is_farther_than_anything_seen_counts_as_the_farthest_seen() -> None:
    head = fitted(300)
    assert head.confidence([head.highs[0], 0, 0]) == head.confidence([1e9, 0, 0])


@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
def test_evidence_that_is_no_number_is_no_confidence(strange: float) -> None:
    assert fitted(300).confidence([0.0, strange, 0.0]) == 0.0


def test_a_head_survives_json_and_a_damaged_one_is_refused() -> None:
    head = fitted(300)
    fields = json.loads(json.dumps(head.to_dict()))
    assert Head.from_dict(fields) == head
    for damage in ({"weights": [1]}, {"features": ["what"]}, {"intercept": None}, {"lows": [float("nan")] * 3}):
        with pytest.raises(RouterError):
            Head.from_dict(fields | damage)
