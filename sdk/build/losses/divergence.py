"""Two distributions over the same outcomes in, how far they lie apart out: one number of nats a position.

Inputs are logits or log-probabilities of shape (..., outcomes): normalising twice changes nothing. p is the teacher, q
the student. With a temperature T both are softened to softmax(z / T) and the result is multiplied by T², so that the
gradient keeps its size while T changes: Hinton et al., arXiv:1503.02531, section 2.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["cross_entropy", "forward_kl", "jensen_shannon", "reverse_kl", "tempered"]

LEAST_LOG_PROBABILITY = -80.0  # e^-80 is still a normal float32; an outcome of probability 0 then adds 0, not NaN.


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of softmax(z / T), shape (..., outcomes), none below LEAST_LOG_PROBABILITY."""
    return torch.log_softmax(logits / temperature, -1).clamp_min(LEAST_LOG_PROBABILITY)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log q(target), shape (...).

    Args:
        logits: Shape (..., vocab).
        targets: True next tokens, shape (...).
    """
    flat = functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    return flat.view_as(targets)


def forward_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T² Σ p (log p - log q), shape (...): the student must cover whatever the teacher may say.

    Source: arXiv:1503.02531.
    """
    log_q, log_p = tempered(student, temperature), tempered(teacher, temperature)
    return temperature**2 * _kl(log_p, log_q)


def reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T² Σ q (log q - log p), shape (...): the student must not say what the teacher would not.

    Source: MiniLLM, arXiv:2306.08543, equation 1, here on given text instead of the student's own.
    """
    log_q, log_p = tempered(student, temperature), tempered(teacher, temperature)
    return temperature**2 * _kl(log_q, log_p)


def jensen_shannon(student: Tensor, teacher: Tensor, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """T² (β KL(p, m) + (1-β) KL(q, m)) with m = β p + (1-β) q, shape (...).

    Divided by β it tends to forward_kl for β → 0; divided by 1-β to reverse_kl for β → 1. Never more than
    T² (-β log β - (1-β) log(1-β)).

    Args:
        student: Shape (..., outcomes).
        teacher: Shape (..., outcomes).
        beta: Weight of the teacher in the mixture, in (0, 1).
        temperature: Above 0.

    Source: generalised JSD of GKD, arXiv:2306.13649, equation 1.
    """
    log_q, log_p = tempered(student, temperature), tempered(teacher, temperature)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    return temperature**2 * (beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m))


def _kl(log_first: Tensor, log_second: Tensor) -> Tensor:
    return (log_first.exp() * (log_first - log_second)).sum(-1)
