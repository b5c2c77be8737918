"""Right guesses about the canaries of one run in, a lower bound on its epsilon out.

The game: each of `canaries` records is in the data by its own fair coin; who sees the result guesses `guesses` of the
coins, a number fixed in advance, and gets `correct` right. Under privacy, many right guesses are unlikely.

Sources: arXiv:2305.08846 (Steinke, Nasr, Jagielski 2023), Theorem 5.2, for any (epsilon, delta)-private mechanism;
arXiv:2410.22235 (Mahloujifar, Melis, Chaudhuri 2024), algorithm 3, for a known trade-off function, here the Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import expit, ndtr, ndtri
from scipy.stats import binom

from privacy.accounting import epsilon
from privacy.errors import AuditError
from privacy.events import GaussianRelease

__all__ = [
    "epsilon_lower_bound",
    "epsilon_p_value",
    "gaussian_epsilon_lower_bound",
    "gaussian_p_value",
    "largest_provable_epsilon",
    "largest_provable_gaussian_epsilon",
    "right_guesses",
]

MAX_EPSILON = 1_000.0  # Nats; a bound beyond it says "no privacy at all".
MAX_SEPARATION = 100.0  # Standard deviations between in and out; the same.
_PRECISION = 1e-6  # Of a bound, in nats or standard deviations; bounds are rounded down to it.
_LEAST_P = 1e-300


def right_guesses(scores: Sequence[float], included: Sequence[bool], guesses: int) -> int:
    """Guess that the highest scores were in and the lowest were out; return how many guesses were right.

    Args:
        scores: One a canary; higher means rather in.
        included: What the coins said.
        guesses: How many to guess, half of them "in"; the canaries between get no guess.

    Raises:
        AuditError: The counts do not fit.
    """
    _require_counts(len(scores), guesses, 0)
    if len(included) != len(scores):
        raise AuditError(f"{len(scores)} scores but {len(included)} coins; give one of each per canary")
    order = np.argsort(-np.asarray(scores, dtype=float), kind="stable")
    coins = np.asarray(included, dtype=bool)[order]
    top = guesses - guesses // 2
    return int(coins[:top].sum() + (~coins[len(coins) - guesses // 2 :]).sum())


def epsilon_p_value(*, canaries: int, guesses: int, correct: int, claimed: float, delta: float) -> float:
    """Return the chance of `correct` or more right guesses when the run is (claimed, delta)-private; an upper bound.

    Args:
        canaries: Records that were in by a coin.
        guesses: How many were guessed, at most `canaries`.
        correct: How many guesses were right.
        claimed: Epsilon in nats.
        delta: Probability that goes with it.

    Source: arXiv:2305.08846, Theorem 5.2.
    """
    _require_counts(canaries, guesses, correct)
    right = float(expit(claimed))  # Of randomised response: the best guess that epsilon allows.
    tail = float(binom.sf(correct - 1, guesses, right))
    lost = np.arange(1, correct + 1)
    between = binom.sf(correct - lost - 1, guesses, right) - tail  # P[correct > X >= correct - lost]
    share = float(np.max(between / lost, initial=0.0))
    return min(1.0, tail + 2 * canaries * delta * share)


def epsilon_lower_bound(*, canaries: int, guesses: int, correct: int, delta: float, confidence: float) -> float:
    """Return the largest epsilon (nats) that so many right guesses refute at `delta`, 0 if they refute none.

    Args:
        canaries: Records that were in by a coin.
        guesses: How many were guessed, fixed in advance.
        correct: How many guesses were right.
        delta: Probability that goes with epsilon, in [0, 1).
        confidence: Chance that a private run is not accused, in (0, 1).

    Source: arXiv:2305.08846, Theorem 5.2 and its corollary.
    """
    _require_share("confidence", confidence)

    def refuted(claimed: float) -> bool:
        p = epsilon_p_value(canaries=canaries, guesses=guesses, correct=correct, claimed=claimed, delta=delta)
        return p <= 1 - confidence

    return _largest(refuted, most=MAX_EPSILON)


def gaussian_p_value(*, canaries: int, guesses: int, correct: int, separation: float) -> float:
    """Return the chance of `correct` or more right guesses under a Gaussian mechanism; an upper bound.

    Args:
        canaries: Records that were in by a coin.
        guesses: How many were guessed, at most `canaries`.
        correct: How many guesses were right.
        separation: Sensitivity over noise: the mechanism is `separation`-GDP.

    Source: arXiv:2410.22235, algorithm 3, with the trade-off function of arXiv:1905.02383, equation 6.
    """
    _require_counts(canaries, guesses, correct)
    low, high = math.log(_LEAST_P), 0.0
    if not _refutes(canaries, guesses, correct, separation, 1.0):
        return 1.0
    while high - low > 1e-3:  # A p-value is needed to its order of magnitude; the upper end is returned.
        middle = (low + high) / 2
        low, high = (low, middle) if _refutes(canaries, guesses, correct, separation, math.exp(middle)) else (middle, high)
    return math.exp(high)


def gaussian_epsilon_lower_bound(
    *, canaries: int, guesses: int, correct: int, delta: float, confidence: float
) -> float:
    """Return the epsilon (nats) at `delta` of the least noisy Gaussian mechanism that so many right guesses refute.

    Only for a run that is known to be a Gaussian mechanism of unknown noise, such as full-batch DP-SGD; then it proves
    more than `epsilon_lower_bound`. Arguments as there; delta in (0, 1).

    Source: arXiv:2410.22235, algorithms 3 and 4.
    """
    _require_counts(canaries, guesses, correct)
    _require_share("confidence", confidence)
    _require_share("delta", delta)

    def refuted(separation: float) -> bool:
        return _refutes(canaries, guesses, correct, separation, 1 - confidence)

    separation = _largest(refuted, most=MAX_SEPARATION)
    if separation <= _PRECISION:
        return 0.0
    return epsilon(GaussianRelease(noise_multiplier=1 / separation), delta=delta, accountant="pld")


def _refutes(canaries: int, guesses: int, correct: int, separation: float, level: float) -> bool:
    """Tell whether `correct` or more right guesses have probability at most `level`.

    Written as in algorithm 3: from the outcome `correct` downwards, `hit` and `miss` bound what the outcomes above must
    weigh if that probability were `level`; when they outgrow the whole, it cannot be.
    """
    hit, miss = level * correct / canaries, level * (guesses - correct) / canaries
    for count in range(correct - 1, -1, -1):
        needed = max(miss, _least_mass(hit, separation))
        if needed == miss:
            break  # Nothing changes from here on.
        hit = min(1.0, hit + count / (guesses - count) * (needed - miss))
        miss = needed
    return hit + miss > guesses / canaries


def _least_mass(mass: float, separation: float) -> float:
    """Return the least probability that an event of probability `mass` keeps under the neighbour (Gaussian)."""
    return float(ndtr(ndtri(mass) - separation))


def largest_provable_epsilon(
    canaries: int, confidence: float = 0.95, *, delta: float = 1e-5, guesses: int | None = None
) -> float:
    """Return the largest epsilon (nats) that an audit with so many canaries could show: if every guess were right.

    Args:
        canaries: Records that are in by a coin.
        confidence: Of the bound.
        delta: Probability that goes with epsilon.
        guesses: How many are guessed; None: all.
    """
    count = canaries if guesses is None else guesses
    return epsilon_lower_bound(
        canaries=canaries, guesses=count, correct=count, delta=delta, confidence=confidence
    )


def largest_provable_gaussian_epsilon(
    canaries: int, confidence: float = 0.95, *, delta: float = 1e-5, guesses: int | None = None
) -> float:
    """The same for `gaussian_epsilon_lower_bound`."""
    count = canaries if guesses is None else guesses
    return gaussian_epsilon_lower_bound(
        canaries=canaries, guesses=count, correct=count, delta=delta, confidence=confidence
    )


def _largest(refuted: Callable[[float], bool], *, most: float) -> float:
    """Return the end of the refuted range [0, x], rounded down."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        if high >= most:
            return most
        low, high = high, min(2 * high, most)
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _require_counts(canaries: int, guesses: int, correct: int) -> None:
    if not 0 <= correct <= guesses <= canaries or guesses < 1:
        raise AuditError(
            f"an audit needs 0 <= correct <= guesses <= canaries and a guess, got {correct}, {guesses}, {canaries}"
        )


def _require_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise AuditError(f"{name} must be in (0, 1), got {value:g}")
