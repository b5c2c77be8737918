"""Right guesses about the canaries of one run in, a lower bound on its epsilon out.

The game: each canary is in the data by its own fair coin; who sees the result guesses some of the coins, how many is
fixed in advance, and gets some right. Under privacy, many right guesses are unlikely.

Sources: arXiv:2305.08846 (Steinke, Nasr, Jagielski 2023), Theorem 5.2, for any (epsilon, delta)-private mechanism;
arXiv:2410.22235 (Mahloujifar, Melis, Chaudhuri 2024), algorithm 3, for a known trade-off function, here the Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, ndtr, ndtri
from scipy.stats import binom

from privacy.accounting import epsilon
from privacy.errors import AuditError
from privacy.events import GaussianRelease

__all__ = [
    "Guesses",
    "epsilon_lower_bound",
    "epsilon_p_value",
    "gaussian_epsilon_lower_bound",
    "gaussian_p_value",
    "guess",
    "largest_provable_epsilon",
]

MAX_EPSILON = 1_000.0  # Nats; a bound beyond it says "no privacy at all".
MAX_SEPARATION = 100.0  # Standard deviations between in and out; the same.
_PRECISION = 1e-6  # Of a bound, in nats or standard deviations; bounds are rounded down to it.
_LEAST_P = 1e-300


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """How the game ended."""

    canaries: int
    """Records, each in by its own fair coin."""
    made: int
    """Guesses, fixed before the run; 1 to `canaries`."""
    right: int
    """Right ones among them."""

    def __post_init__(self) -> None:
        """Refuse what no game gives.

        Raises:
            AuditError: More right guesses than guesses, or more guesses than canaries, or none.
        """
        if not 0 <= self.right <= self.made <= self.canaries or self.made < 1:
            raise AuditError(
                f"{self.right} right of {self.made} guesses about {self.canaries} canaries is no game; "
                "make at least one guess and at most one a canary"
            )

    def perfect(self) -> Guesses:
        """Return the same game with every guess right: what it could show at most."""
        return replace(self, right=self.made)


def guess(scores: Sequence[float], included: Sequence[bool], made: int) -> Guesses:
    """Guess that the highest scores were in and the lowest were out, and count.

    Args:
        scores: One a canary; higher means rather in.
        included: What the coins said.
        made: How many to guess, half of them "in"; the canaries between get no guess.

    Raises:
        AuditError: The counts do not fit.
    """
    game = Guesses(canaries=len(scores), made=made, right=0)
    if len(included) != len(scores):
        raise AuditError(f"{len(scores)} scores but {len(included)} coins; give one of each per canary")
    order = np.argsort(-np.asarray(scores, dtype=float), kind="stable")
    coins = np.asarray(included, dtype=bool)[order]
    top, bottom = made - made // 2, len(coins) - made // 2
    return replace(game, right=int(coins[:top].sum() + (~coins[bottom:]).sum()))


def epsilon_p_value(game: Guesses, *, claimed: float, delta: float) -> float:
    """Return the chance of so many right guesses, or more, when the run is (claimed, delta)-private; an upper bound.

    Source: arXiv:2305.08846, Theorem 5.2.
    """
    chance = float(expit(claimed))  # Of randomised response: the best guess that epsilon allows.
    tail = float(binom.sf(game.right - 1, game.made, chance))
    lost = np.arange(1, game.right + 1)
    between = binom.sf(game.right - lost - 1, game.made, chance) - tail  # P[right > X >= right - lost]
    share = float(np.max(between / lost, initial=0.0))
    return min(1.0, tail + 2 * game.canaries * delta * share)


def epsilon_lower_bound(game: Guesses, *, delta: float, confidence: float) -> float:
    """Return the largest epsilon (nats) that so many right guesses refute at `delta`, 0 if they refute none.

    Args:
        game: What was guessed.
        delta: Probability that goes with epsilon, in [0, 1).
        confidence: Chance that a private run is not accused, in (0, 1).

    Source: arXiv:2305.08846, Theorem 5.2 and its corollary.
    """
    level = _level(confidence)
    return _largest(lambda claimed: epsilon_p_value(game, claimed=claimed, delta=delta) <= level, most=MAX_EPSILON)


def gaussian_p_value(game: Guesses, *, separation: float) -> float:
    """Return the chance of so many right guesses, or more, under a Gaussian mechanism; an upper bound.

    Args:
        game: What was guessed.
        separation: Sensitivity over noise, >= 0: the mechanism is `separation`-GDP.

    Source: arXiv:2410.22235, algorithm 3, with the trade-off function of arXiv:1905.02383, equation 6.
    """
    if not _refutes(game, separation, 1.0):
        return 1.0
    low, high = math.log(_LEAST_P), 0.0
    while high - low > 1e-3:  # A p-value is needed to its order of magnitude; the upper end is returned.
        middle = (low + high) / 2
        low, high = (low, middle) if _refutes(game, separation, math.exp(middle)) else (middle, high)
    return math.exp(high)


def gaussian_epsilon_lower_bound(game: Guesses, *, delta: float, confidence: float) -> float:
    """Return the epsilon (nats) at `delta` of the least noisy Gaussian mechanism that so many right guesses refute.

    Only for a run that is known to be a Gaussian mechanism of unknown noise, such as full-batch DP-SGD; then it proves
    more than `epsilon_lower_bound`.

    Args:
        game: What was guessed.
        delta: Probability that goes with epsilon, in (0, 1).
        confidence: Chance that a private run is not accused, in (0, 1).

    Source: arXiv:2410.22235, algorithms 3 and 4.
    """
    level = _level(confidence)
    separation = _largest(lambda distance: _refutes(game, distance, level), most=MAX_SEPARATION)
    if separation <= _PRECISION:
        return 0.0
    return epsilon(GaussianRelease(noise_multiplier=1 / separation), delta=delta, accountant="pld")


def _refutes(game: Guesses, separation: float, level: float) -> bool:
    """Tell whether so many right guesses, or more, have probability at most `level`.

    Written as in algorithm 3: from the outcome that was seen downwards, `hit` and `miss` bound what the outcomes above
    must weigh if that probability were `level`; when they outgrow the whole, it cannot be.
    """
    hit, miss = level * game.right / game.canaries, level * (game.made - game.right) / game.canaries
    for count in range(game.right - 1, -1, -1):
        needed = max(miss, float(ndtr(ndtri(hit) - separation)))  # What an event of probability `hit` keeps at least.
        if needed == miss:
            break  # Nothing changes from here on.
        hit = min(1.0, hit + count / (game.made - count) * (needed - miss))
        miss = needed
    return hit + miss > game.made / game.canaries


def largest_provable_epsilon(
    canaries: int, confidence: float = 0.95, *, delta: float = 1e-5, guesses: int | None = None, gaussian: bool = False
) -> float:
    """Return the largest epsilon (nats) that an audit with so many canaries could show: if every guess were right.

    Args:
        canaries: Records that are in by a coin.
        confidence: Of the bound, in (0, 1).
        delta: Probability that goes with epsilon.
        guesses: How many are guessed; None: all.
        gaussian: Whether the bound for Gaussian mechanisms is meant.
    """
    made = canaries if guesses is None else guesses
    bound = gaussian_epsilon_lower_bound if gaussian else epsilon_lower_bound
    return bound(Guesses(canaries=canaries, made=made, right=made), delta=delta, confidence=confidence)


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


def _level(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise AuditError(f"confidence must be in (0, 1), got {confidence:g}")
    return 1 - confidence
