"""The one-run bounds are those of the papers: caps, tables and another implementation agree, and they are sound."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from privacy import GaussianRelease, epsilon
from privacy.audit import (
    Guesses,
    epsilon_lower_bound,
    epsilon_p_value,
    gaussian_epsilon_lower_bound,
    gaussian_p_value,
    guess,
    largest_provable_epsilon,
)
from privacy.errors import AuditError


@pytest.mark.parametrize(("canaries", "cap"), [(50, 2.78), (100, 3.49), (500, 5.10), (1000, 5.78), (5000, 7.28)])
def test_the_largest_provable_epsilon_is_that_of_the_table(canaries: int, cap: float) -> None:
    assert largest_provable_epsilon(canaries) == pytest.approx(cap, abs=0.005)


@pytest.mark.parametrize(("canaries", "cap"), [(1_000, 4.17), (5_000, 5.67)])
def test_a_fifth_of_the_guesses_caps_as_published(canaries: int, cap: float) -> None:
    assert largest_provable_epsilon(canaries, guesses=canaries // 5) == pytest.approx(cap, abs=0.01)


@pytest.mark.parametrize("canaries", [20, 100, 1000])
def test_without_delta_the_cap_has_a_closed_form(canaries: int) -> None:
    """All right with chance p^m = 5 %: p is the m-th root of 0.05, and epsilon its logit."""
    share = 0.05 ** (1 / canaries)
    assert largest_provable_epsilon(canaries, delta=0.0) == pytest.approx(math.log(share / (1 - share)), abs=2e-6)


@pytest.mark.parametrize(
    ("right", "made", "thresholds", "expected"),
    [(2807, 3376, 386, 1.13346), (4499, 4666, 374, 2.311945), (8223, 8233, 140, 4.395568)],
)
def test_the_bound_is_that_of_jax_privacy(right: int, made: int, thresholds: int, expected: float) -> None:
    """Scores of 10,000 canaries in and out, 1, 2 and 4 deviations apart; level 5 % over all thresholds, delta 1e-6.

    Source: google-deepmind/jax_privacy, tests/auditing_test.py, test_epsilon_one_run_close.
    """
    game = Guesses(canaries=20_000, made=made, right=right)
    bound = epsilon_lower_bound(game, delta=1e-6, confidence=1 - 0.05 / thresholds)
    assert bound == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("right", "wrong", "thresholds", "expected"),
    [(379, 27, 386, 2.164749), (934, 4, 374, 4.7218075), (5436, 0, 140, 9.133752)],
)
def test_the_gaussian_bound_is_that_of_jax_privacy(right: int, wrong: int, thresholds: int, expected: float) -> None:
    game = Guesses(canaries=20_000, made=right + wrong, right=right)
    bound = gaussian_epsilon_lower_bound(game, delta=1e-6, confidence=1 - 0.05 / thresholds)
    assert bound == pytest.approx(expected, rel=1e-5)


def test_without_delta_the_p_value_is_a_binomial_tail() -> None:
    game = Guesses(canaries=100, made=40, right=30)
    assert epsilon_p_value(game, claimed=0.0, delta=0.0) == pytest.approx(binom.sf(29, 40, 0.5))
    assert epsilon_p_value(game, claimed=1.0, delta=0.0) == pytest.approx(binom.sf(29, 40, math.e / (1 + math.e)))


def test_the_p_value_with_delta_is_the_sum_that_the_theorem_writes() -> None:
    game, claimed, delta = Guesses(canaries=60, made=30, right=25), 1.0, 1e-3
    chance = math.e / (1 + math.e)
    tail = sum(binom.pmf(k, 30, chance) for k in range(25, 31))
    share = max(sum(binom.pmf(25 - j, 30, chance) for j in range(1, i + 1)) / i for i in range(1, 26))
    assert epsilon_p_value(game, claimed=claimed, delta=delta) == pytest.approx(tail + 2 * 60 * delta * share)


def test_guesses_at_random_prove_nothing() -> None:
    for right in (10, 20, 25):
        game = Guesses(canaries=200, made=40, right=right)
        assert epsilon_lower_bound(game, delta=1e-5, confidence=0.95) == 0
        assert gaussian_epsilon_lower_bound(game, delta=1e-5, confidence=0.95) == 0
        assert gaussian_p_value(game, separation=0.0) > 0.05


@given(
    canaries=st.integers(10, 400),
    share=st.floats(0.05, 1.0),
    right=st.floats(0.0, 1.0),
    confidence=st.floats(0.5, 0.999),
)
def test_more_right_guesses_and_less_confidence_prove_more(
    canaries: int, share: float, right: float, confidence: float
) -> None:
    made = max(1, int(share * canaries))
    game = Guesses(canaries=canaries, made=made, right=int(right * made))
    better = Guesses(canaries=canaries, made=made, right=min(made, game.right + 1))
    for bound in (epsilon_lower_bound, gaussian_epsilon_lower_bound):
        found = bound(game, delta=1e-5, confidence=confidence)
        assert 0 <= found <= bound(better, delta=1e-5, confidence=confidence) + 1e-9
        assert found <= bound(game, delta=1e-5, confidence=confidence / 2) + 1e-9
        assert found <= bound(game.perfect(), delta=1e-5, confidence=confidence) + 1e-9


@given(separation=st.floats(0.0, 6.0), right=st.integers(0, 50))
def test_a_bound_and_its_p_value_say_the_same(separation: float, right: int) -> None:
    game = Guesses(canaries=100, made=50, right=right)
    refuted = gaussian_p_value(game, separation=separation) < 0.0499
    bound = gaussian_epsilon_lower_bound(game, delta=1e-5, confidence=0.95)
    claimed = epsilon(GaussianRelease(noise_multiplier=1 / separation), delta=1e-5) if separation > 1e-3 else 0.0
    assert not refuted or bound >= claimed - 1e-3


def play(rng: np.random.Generator, *, canaries: int, made: int, separation: float) -> Guesses:
    included = rng.integers(0, 2, canaries).astype(bool)
    return guess(list(rng.normal(size=canaries) + separation * included), list(included), made)


@pytest.mark.parametrize("separation", [0.0, 0.5, 1.0, 2.0])
def test_a_private_mechanism_is_rarely_accused(separation: float) -> None:
    """400 games of a real Gaussian mechanism at 95 %: 20 false bounds are expected at worst, 45 have chance 1e-7."""
    rng = np.random.default_rng(1)
    true = epsilon(GaussianRelease(noise_multiplier=1 / separation), delta=1e-5) if separation else 0.0
    accused = {epsilon_lower_bound: 0, gaussian_epsilon_lower_bound: 0}
    for _ in range(400):
        game = play(rng, canaries=100, made=20, separation=separation)
        for bound in accused:
            accused[bound] += bound(game, delta=1e-5, confidence=0.95) > true + 1e-9
    assert max(accused.values()) < 45


def test_the_gaussian_bound_proves_more_about_a_gaussian_mechanism() -> None:
    """1,000 canaries, separation 1 (epsilon 4.38), a fifth guessed: about 1.5 for any mechanism, 2.5 for a Gaussian."""
    rng = np.random.default_rng(2)
    games = [play(rng, canaries=1_000, made=200, separation=1.0) for _ in range(20)]
    plain = np.mean([epsilon_lower_bound(game, delta=1e-5, confidence=0.95) for game in games])
    gaussian = np.mean([gaussian_epsilon_lower_bound(game, delta=1e-5, confidence=0.95) for game in games])
    assert plain == pytest.approx(1.51, abs=0.15)  # The simulation that docs and thresholds are built on.
    assert plain + 0.5 < gaussian < 4.38


def test_guessing_takes_the_highest_as_in_and_the_lowest_as_out() -> None:
    scores, included = [0.1, 5.0, 3.0, -2.0, 0.0], [True, True, False, False, True]
    assert guess(scores, included, 2) == Guesses(canaries=5, made=2, right=2)
    assert guess(scores, included, 4) == Guesses(canaries=5, made=4, right=2)  # 3.0 was out, and 0.0 in.
    assert guess(scores, included, 3) == Guesses(canaries=5, made=3, right=2)


def test_the_expected_share_of_right_guesses_is_the_normal_tail() -> None:
    """All guessed: right with chance Phi(separation / 2) each."""
    game = play(np.random.default_rng(3), canaries=40_000, made=40_000, separation=1.0)
    assert game.right / game.made == pytest.approx(norm.cdf(0.5), abs=0.01)


@pytest.mark.parametrize(("canaries", "made", "right"), [(10, 11, 5), (10, 5, 6), (10, 0, 0), (10, 5, -1)])
def test_a_game_that_cannot_be_is_refused(canaries: int, made: int, right: int) -> None:
    with pytest.raises(AuditError, match="is no game"):
        Guesses(canaries=canaries, made=made, right=right)


def test_scores_and_coins_must_fit() -> None:
    with pytest.raises(AuditError, match="3 scores but 2 coins"):
        guess([1.0, 2.0, 3.0], [True, False], 2)
    with pytest.raises(AuditError, match="confidence"):
        largest_provable_epsilon(100, 1.0)
