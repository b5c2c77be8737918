"""Scores of members and strangers in, how well an attacker tells them apart out, with confidence intervals.

Sources: variance of the AUC, DeLong et al. 1988; true positives at a low false positive rate, arXiv:2112.03570; what a
Gaussian mechanism allows, arXiv:1905.02383, equation 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import beta, rankdata

from privacy.audit.findings import Finding, Membership, judged
from privacy.errors import AuditError

__all__ = ["FALSE_POSITIVE_RATE", "attack", "judge", "judge_sight"]

FALSE_POSITIVE_RATE = 0.001  # One wrong accusation in a thousand: an attack that hurts is sure, not right on average.


def attack(
    members: Sequence[float],
    strangers: Sequence[float],
    *,
    separation: float = math.inf,
    confidence: float = 0.95,
    false_positive_rate: float = FALSE_POSITIVE_RATE,
) -> Membership:
    """Measure the attack that calls high scores members.

    Args:
        members: Scores of records that were in the data, at least two.
        strangers: Scores of records that were not, at least two.
        separation: Sensitivity over noise that the claim allows (it is at least so private as a Gaussian mechanism);
            infinite: nothing is claimed.
        confidence: Of the two-sided intervals.
        false_positive_rate: Share of strangers that may be taken for members.

    Raises:
        AuditError: Too few scores, or one is no number.
    """
    inside, outside = np.asarray(members, dtype=float), np.asarray(strangers, dtype=float)
    if min(len(inside), len(outside)) < 2:
        raise AuditError(f"an attack needs 2 members and 2 strangers, got {len(inside)} and {len(outside)}")
    if np.isnan(inside).any() or np.isnan(outside).any():
        raise AuditError("a score is no number; the model diverged, audit it with less noise or fewer steps")
    auc, deviation = _auc(inside, outside)
    low, high = _auc_interval(auc, deviation, min(len(inside), len(outside)), confidence)
    accused = math.floor(false_positive_rate * len(outside) + 1e-9)
    threshold = np.sort(outside)[len(outside) - 1 - accused]
    found = int((inside > threshold).sum())
    tail = (1 - confidence) / 2
    return Membership(
        members=len(inside),
        strangers=len(outside),
        auc=auc,
        auc_low=low,
        auc_high=high,
        auc_allowed=float(ndtr(separation / math.sqrt(2))),
        false_positive_rate=false_positive_rate,
        true_positive_rate=found / len(inside),
        true_positive_rate_low=float(beta.ppf(tail, found, len(inside) - found + 1)) if found else 0.0,
        true_positive_rate_high=(
            float(beta.ppf(1 - tail, found + 1, len(inside) - found)) if found < len(inside) else 1.0
        ),
        true_positive_rate_allowed=float(ndtr(ndtri(false_positive_rate) + separation)),
        confidence=confidence,
        resolved=accused > 0,
    )


def judge(measured: Membership) -> Finding:
    """Fail when the attack, or its opposite, is better than the claim allows.

    The canaries' scores are taken as independent, which holds where their gradients do not overlap.
    """
    return judged(
        "membership inference",
        "an attacker tells members from strangers no better than the claim allows",
        2 * _p_above(max(measured.auc, 1 - measured.auc), measured.auc_allowed, measured),
        f"AUC {measured.auc:.3f} ({measured.auc_low:.3f} to {measured.auc_high:.3f}), "
        f"allowed {measured.auc_allowed:.3f}; at {measured.false_positive_rate:.1%} false positives "
        f"{measured.true_positive_rate:.1%} of members found "
        f"({measured.true_positive_rate_low:.1%} to {measured.true_positive_rate_high:.1%}), "
        f"allowed {measured.true_positive_rate_allowed:.1%}",
    )


def judge_sight(measured: Membership) -> Finding:
    """Fail when the attack on a full-batch run is far worse than it must be: then the audit saw nothing to judge.

    A canary's gradient is as long as the clip norm in every step, so the best attack reaches what the claim allows.
    """
    return judged(
        "audit sees",
        "the canaries were trained on and seen, so that a leak would have shown",
        _p_above(1 - measured.auc, 1 - measured.auc_allowed, measured),
        f"AUC {measured.auc:.3f}, expected {measured.auc_allowed:.3f}",
    )


def _p_above(share: float, bound: float, measured: Membership) -> float:
    """Return the chance to measure `share` or more where `bound` is true.

    The deviation is the larger of the measured one and the largest that an AUC of `bound` can have.
    """
    pairs = min(measured.members, measured.strangers)
    if share >= 1:
        return float(bound**pairs)
    seen = (measured.auc_high - measured.auc_low) / 2 / float(ndtri((1 + measured.confidence) / 2))
    widest = math.sqrt(bound * (1 - bound) / pairs)
    return float(ndtr((bound - share) / max(seen, widest, 1e-12)))


def _auc(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float]:
    """Return the AUC and its standard deviation (DeLong), ties counted half."""
    ranks = rankdata(np.concatenate([inside, outside]))
    beaten = (ranks[: len(inside)] - rankdata(inside)) / len(outside)  # Of the strangers, by each member.
    losing = 1 - (ranks[len(inside) :] - rankdata(outside)) / len(inside)  # Share of members above each stranger.
    variance = beaten.var(ddof=1) / len(inside) + losing.var(ddof=1) / len(outside)
    return float(beaten.mean()), math.sqrt(variance)


def _auc_interval(auc: float, deviation: float, pairs: int, confidence: float) -> tuple[float, float]:
    if deviation == 0:  # Perfectly told apart: the normal interval would have no width.
        tail = (1 - confidence) / 2
        lowest = tail ** (1 / pairs)
        return (lowest, 1.0) if auc > 0.5 else (0.0, 1 - lowest)
    half = float(ndtri((1 + confidence) / 2)) * deviation
    return max(0.0, auc - half), min(1.0, auc + half)
