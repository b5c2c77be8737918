"""The steps of an answer in, what they tell about its being right out: a few numbers, the same in build and on devices.

Sources: quantiles of token log-probabilities, because their sum and mean have a length bias: Gupta et al.,
arXiv:2404.10136; agreement of several samples: Wang et al., arXiv:2203.11171.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

__all__ = ["FEATURES", "Evidence", "Step", "agreement"]


class Step(Protocol):
    """One token of an answer, as an engine's scores told it before any mask and temperature."""

    @property
    def log_probability(self) -> float:
        """Of the token, in nats, ≤ 0."""

    @property
    def margin(self) -> float:
        """Log-probability of the likeliest token minus that of the second, in nats, ≥ 0."""

    @property
    def entropy(self) -> float:
        """Of the distribution, in nats, ≥ 0."""

    @property
    def mask_share(self) -> float:
        """Probability that the grammar's mask left, in [0, 1]; 1 without a mask."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What can be known of an answer without knowing the right one."""

    tokens: int
    """Length of the answer, without its stop token."""
    least: float
    """Smallest log-probability of a token, in nats."""
    tenth: float
    """Their 10th percentile."""
    mean: float
    """Their mean."""
    margin: float
    """Mean margin of the likeliest token over the second, in nats."""
    least_margin: float
    """Smallest margin."""
    entropy: float
    """Mean entropy, in nats."""
    most_entropy: float
    """Largest entropy."""
    mask_share: float = 1.0
    """Smallest probability that a mask left at a step, in [0, 1]."""
    valid: bool | None = None
    """Whether the answer fits its schema; None where none was asked for."""
    agreement: float | None = None
    """Share of other samples that say the same, in [0, 1]; None where none were drawn."""

    @classmethod
    def of_steps(
        cls, steps: Sequence[Step], *, valid: bool | None = None, agreement: float | None = None
    ) -> "Evidence":
        """Sum up the steps of an answer; an empty answer counts as one that the model was not sure of at all."""
        if not steps:
            nothing = {"least": -20.0, "tenth": -20.0, "mean": -20.0, "margin": 0.0, "least_margin": 0.0}
            return cls(tokens=0, entropy=10.0, most_entropy=10.0, valid=valid, agreement=agreement, **nothing)
        said = np.array([[step.log_probability, step.margin, step.entropy, step.mask_share] for step in steps])
        logs, margins, entropies, shares = said.T  # (steps,) each
        return cls(
            tokens=len(steps),
            least=float(logs.min()),
            tenth=float(np.quantile(logs, 0.1)),
            mean=float(logs.mean()),
            margin=float(margins.mean()),
            least_margin=float(margins.min()),
            entropy=float(entropies.mean()),
            most_entropy=float(entropies.max()),
            mask_share=float(shares.min()),
            valid=valid,
            agreement=agreement,
        )

    def row(self) -> tuple[float, ...]:
        """The numbers that a head weighs, in the order of FEATURES; one that cannot be told is NaN."""
        structured = self.valid is not None
        return (
            math.log1p(self.tokens),
            self.least,
            self.tenth,
            self.mean,
            self.margin,
            self.least_margin,
            self.entropy,
            self.most_entropy,
            math.log(max(self.mask_share, 1e-6)) if self.mask_share == self.mask_share else math.nan,
            float(structured),
            float(self.valid is False),
            self.mean * structured,
            self.least * structured,
            math.nan if self.agreement is None else self.agreement,
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Evidence":
        """Read what `to_dict` gave.

        Raises:
            TypeError: A field is missing or unknown.
        """
        return cls(**fields)


FEATURES = (
    "log tokens", "least log-probability", "10th percentile of log-probabilities", "mean log-probability",
    "mean margin", "least margin", "mean entropy", "largest entropy", "log of the mask's share", "has a schema",
    "does not fit its schema", "mean log-probability under a schema", "least log-probability under a schema",
    "self-agreement",
)  # fmt: skip
"""Names of the numbers of `Evidence.row`, self-agreement last."""


def agreement(answer: str, samples: Sequence[str]) -> float | None:
    """How far other samples say what `answer` says, in [0, 1]; None without samples.

    JSON agrees when its values are equal, whatever the order of its keys; other texts by the share of common words
    (twice those in common over those in both), whatever their case.
    """
    if not samples:
        return None
    return sum(_alike(answer, sample) for sample in samples) / len(samples)


def _alike(one: str, other: str) -> float:
    if one.lstrip().startswith(("{", "[")):
        try:
            return float(json.loads(one) == json.loads(other))
        except (ValueError, RecursionError):
            return float(one.strip() == other.strip())
    words, others = (Counter(text.lower().split()) for text in (one, other))
    total = words.total() + others.total()
    return 2 * (words & others).total() / total if total else 1.0
