"""Logits or somebody's list of likeliest tokens in, checked top-k log-probabilities with a rest bucket out.

The k likeliest tokens of a small model hold about 87 % of its mass at k = 64 on mixed text, 70 % at k = 8. To
renormalise them would teach the student that the rest cannot happen, so the rest is kept as one bucket.
"""

from torch import Tensor

from sdk.build.losses.outcomes import TopK
from sdk.errors import TeacherError

__all__ = ["checked", "cut", "likeliest"]

EXCESS = 5e-3
"""How far a position's probabilities may sum over 1. Half precision rounds a logarithm by up to 0.05 % of itself, so
the sum by up to 0.05 % of the entropy in nats, which is below 10."""


def likeliest(logits: Tensor, top_k: int) -> TopK:
    """The `top_k` likeliest tokens of logits, (batch, seq, vocabulary); the first is the likeliest.

    Raises:
        TeacherError: A `top_k` that the vocabulary has not.
    """
    if not 1 <= top_k <= logits.shape[-1]:
        raise TeacherError(f"top_k must lie in 1 to {logits.shape[-1]}, the teacher's vocabulary, got {top_k}")
    log_probs, ids = logits.float().log_softmax(-1).topk(top_k)  # (batch, seq, k)
    return TopK(ids=ids, log_probs=log_probs, rest=_rest(log_probs))


def checked(ids: Tensor, log_probs: Tensor, *, vocabulary: int) -> TopK:
    """Take them from outside.

    Args:
        ids: (batch, seq, k), integers.
        log_probs: (batch, seq, k), natural logarithms.
        vocabulary: Number of tokens that there are.

    Raises:
        TeacherError: Shapes that differ, a token that is not there or listed twice, a number that is no
            log-probability, an order that rises, or a sum over 1; the first place is named.
    """
    if ids.shape != log_probs.shape or ids.dim() != 3 or not ids.shape[-1]:
        raise TeacherError(
            f"ids {tuple(ids.shape)} and log_probs {tuple(log_probs.shape)} must both be (batch, seq, k)"
        )
    ids, log_probs = ids.long(), log_probs.float()
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise TeacherError(f"a token lies outside the vocabulary of {vocabulary}; these are outputs of another model")
    _refuse_where(~log_probs.isfinite().all(-1), "a log-probability that is not finite")
    _refuse_where((log_probs > 1e-6).any(-1), "a log-probability above 0")
    _refuse_where((log_probs.diff(dim=-1) > 0).any(-1), "log-probabilities that rise along k")
    _refuse_where((ids.sort(-1).values.diff(dim=-1) == 0).any(-1), "a token listed twice")
    _refuse_where(log_probs.exp().sum(-1) > 1 + EXCESS, "probabilities that sum to over 1")
    return TopK(ids=ids, log_probs=log_probs, rest=_rest(log_probs))


def cut(outputs: TopK, top_k: int) -> TopK:
    """The likeliest `top_k` of what is there; the others join the rest.

    Raises:
        TeacherError: More than there are.
    """
    there = outputs.ids.shape[-1]
    if not 1 <= top_k <= there:
        raise TeacherError(f"{there} log-probabilities a token are there, top_k {top_k} was asked for")
    kept = outputs.log_probs[..., :top_k]
    return TopK(ids=outputs.ids[..., :top_k], log_probs=kept, rest=_rest(kept))


def _rest(log_probs: Tensor) -> Tensor:
    """1 minus the sum, (batch, seq); in double precision, because the sum is often close to 1."""
    return (1 - log_probs.double().exp().sum(-1)).clamp(min=0).float()


def _refuse_where(wrong: Tensor, what: str) -> None:
    """Refuse with the first position, if any is marked; (batch, seq) of bool."""
    if wrong.any():
        row, position = (int(index) for index in wrong.nonzero()[0])
        raise TeacherError(f"the teacher's outputs hold {what} (row {row}, position {position}); record them again")
