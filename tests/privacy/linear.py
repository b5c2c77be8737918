"""Records that are vectors, with losses whose gradient is the record itself: what the engine does is known exactly."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from privacy.dp_sgd import DpSgd
from privacy.events import DpSgdRun
from privacy.per_example import add_grad_sample

__all__ = ["Linear", "engine", "run_of"]


class _Dot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, theta: Tensor, rows: Tensor) -> Tensor:
        ctx.theta, ctx.rows = theta, rows
        return rows @ theta.detach()  # (batch,)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, None]:
        add_grad_sample(ctx.theta, upstream[:, None] * ctx.rows)
        return None, None


class Linear:
    """Losses theta · row, one a record."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows  # (records, numbers)
        self.theta = torch.zeros(rows.shape[1], dtype=rows.dtype, requires_grad=True)
        self.asked: list[list[int]] = []

    def losses_of(self, indices: Sequence[int]) -> Tensor:
        """Losses of some records, and a note of who was asked."""
        self.asked.append(list(indices))
        losses: Tensor = _Dot.apply(self.theta, self.rows[list(indices)])  # type: ignore[no-untyped-call]
        return losses


def run_of(**changes: Any) -> DpSgdRun:
    """A run of full batches with clip norm 2."""
    return DpSgdRun(**{"noise_multiplier": 1.5, "sampling_rate": 1.0, "steps": 3, "clip_norm": 2.0, **changes})


def engine(records: Linear, run: DpSgdRun | None = None, **sources: Any) -> DpSgd:
    """The engine over such records, with the randomness of the device unless told otherwise."""
    return DpSgd(run or run_of(), records=len(records.rows), parameters=[records.theta], **sources)
