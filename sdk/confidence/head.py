"""Rows of evidence and which answers were right in, a calibrated chance of being right out: a small logistic head.

Newton's method on the penalised log-likelihood, which is convex: no rate, no seed, the same head every time. The
penalty is on standardised weights, so that it means the same for each. A feature that never varies gets no weight, and
a value far outside what was seen counts as the farthest that was seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdk.confidence.evidence import FEATURES
from sdk.errors import RouterError

__all__ = ["Head"]

PENALTY = 1.0  # Of squared standardised weights; about one item's worth, so that 50 items do not separate for ever.
ROUNDS = 100  # Newton's method ends after about ten.
Rows = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Head:
    """Weights of a logistic regression over evidence."""

    features: tuple[str, ...]
    """Names of what is weighed, the first of FEATURES."""
    lows: tuple[float, ...]
    """Smallest value of each that was seen."""
    highs: tuple[float, ...]
    """Largest."""
    weights: tuple[float, ...]
    """Of each, in logits a unit."""
    intercept: float
    """In logits."""

    @classmethod
    def fit(cls, rows: Sequence[Sequence[float]], right: Sequence[bool], *, features: Sequence[str]) -> "Head":
        """Learn from answers whose being right is known.

        Args:
            rows: Evidence.row of each, the columns of `features`.
            right: Whether each was right.
            features: Names of the columns.

        Raises:
            RouterError: No rows, or a number that is not finite.
        """
        seen = np.asarray(rows, dtype=np.float64)  # (items, features)
        known = np.asarray(right, dtype=np.float64)  # (items,)
        if seen.ndim != 2 or not len(seen) or not bool(np.isfinite(seen).all()):
            raise RouterError("a head is fitted to finite evidence of at least one answer")
        mean, scale = seen.mean(0), seen.std(0)
        scale[scale < 1e-9] = np.inf
        weights = _newton((seen - mean) / scale, known)
        return cls(
            features=tuple(features),
            lows=tuple(map(float, seen.min(0))),
            highs=tuple(map(float, seen.max(0))),
            weights=tuple(map(float, weights[:-1] / scale)),
            intercept=float(weights[-1] - (weights[:-1] / scale * mean).sum()),
        )

    def confidence(self, row: Sequence[float]) -> float:
        """The chance that an answer with this evidence is right, in [0, 1]; 0 where a number is not finite."""
        values = np.asarray(row[: len(self.weights)], dtype=np.float64)
        if not bool(np.isfinite(values).all()):
            return 0.0
        logit = float(np.dot(np.clip(values, self.lows, self.highs), self.weights)) + self.intercept
        return float(1 / (1 + np.exp(-np.clip(logit, -500, 500))))

    def weakest(self, row: Sequence[float]) -> str:
        """The feature that pulls this answer's confidence down the most, against the middle of what was seen."""
        middle = (np.asarray(self.lows) + np.asarray(self.highs)) / 2
        values = np.clip(np.nan_to_num(np.asarray(row[: len(self.weights)])), self.lows, self.highs)
        return self.features[int(np.argmin((values - middle) * self.weights))]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "features": list(self.features),
            "lows": list(self.lows),
            "highs": list(self.highs),
            "weights": list(self.weights),
            "intercept": self.intercept,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Head":
        """Read what `to_dict` gave.

        Raises:
            RouterError: Features that this version does not know, or numbers that do not fit.
        """
        try:
            features = tuple(fields["features"])
            lows, highs, weights = (tuple(map(float, fields[name])) for name in ("lows", "highs", "weights"))
            intercept = float(fields["intercept"])
        except (KeyError, TypeError, ValueError) as cause:
            raise RouterError(f"the router's head is damaged ({type(cause).__name__}); calibrate it again") from cause
        if (
            features != FEATURES[: len(features)]
            or not features
            or {len(lows), len(highs), len(weights)} != {len(features)}
        ):
            raise RouterError("the router's head weighs evidence that this version does not know; calibrate it again")
        if not bool(np.isfinite([*lows, *highs, *weights, intercept]).all()):
            raise RouterError("the router's head holds a number that is not finite; calibrate it again")
        return cls(features=features, lows=lows, highs=highs, weights=weights, intercept=intercept)


def _newton(rows: Rows, known: Rows) -> Rows:
    """Weights and, last, the intercept; the intercept is not penalised."""
    rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)  # (items, features + 1)
    penalty = np.full(rows.shape[1], PENALTY)
    penalty[-1] = 1e-6  # Keeps the step finite where all answers are right.
    weights = np.zeros(rows.shape[1])
    for _ in range(ROUNDS):
        chance = 1 / (1 + np.exp(-np.clip(rows @ weights, -30, 30)))  # (items,)
        slope = rows.T @ (chance - known) + penalty * weights
        bend = (rows * (chance * (1 - chance))[:, None]).T @ rows + np.diag(penalty)
        step = np.linalg.solve(bend, slope)
        weights -= step * min(1.0, 5.0 / float(np.abs(step).max() + 1e-12))  # Damped: far steps overshoot.
        if float(np.abs(step).max()) < 1e-9:
            break
    return weights
