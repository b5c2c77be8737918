"""The engine's parts as an audit takes them, and a tiny real task to put them through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from privacy.dp_sgd import DpSgd
from privacy.events import DpSgdRun
from privacy.ledger import Ledger
from privacy.per_example import add_grad_sample, frozen_head_loss, low_rank_linear

__all__ = ["ODD", "Engine", "TinyTask"]

ODD = 2
"""The last records of a tiny task are odd: one's gradient is infinite, one's is not a number."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What is audited: the real parts, unless others are handed in. None: what the step takes by itself."""

    step: Callable[..., DpSgd] = DpSgd
    """Makes the engine of one run; called as `privacy.DpSgd`."""
    gaussian: Callable[[tuple[int, ...]], Tensor] | None = None
    """Source of standard normal noise."""
    coins: Callable[[int, float], list[int]] | None = None
    """Poisson sampler."""
    losses: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = frozen_head_loss
    """Hidden states, head, targets, weights in; one loss an example out."""
    ledger: Callable[..., Ledger] = Ledger.open
    """Opens the ledger that charges a run; called as `privacy.Ledger.open`."""

    def build(self, run: DpSgdRun, *, records: int, parameters: Sequence[Tensor], **fixed: Any) -> DpSgd:
        """Make the engine of `run`; `fixed` replaces a source of randomness to see what stands under it."""
        sources = {"gaussian": self.gaussian, "coins": self.coins, **fixed}
        given = {name: source for name, source in sources.items() if source is not None}
        return self.step(run, records=records, parameters=list(parameters), **given)


class TinyTask:
    """A low-rank layer under a frozen head, in float64, with records of very different length and weight.

    The data are public and always the same: only the engine's own randomness is on trial.
    """

    def __init__(self, *, records: int = 26, width: int = 6, rank: int = 2, quiet: bool = False, seed: int = 0) -> None:
        """Make data and parameters.

        Args:
            records: Number of records, `ODD` of them odd.
            width: Width of the layer.
            rank: Rank of what is trained: `a` (rank, width) and `b` (width, rank).
            quiet: Whether all weights are zero, so that every gradient is.
            seed: Which data.
        """
        draw = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw, dtype=torch.float64)

        self.records, self.positions = records, 12
        self.inputs = normal(records, self.positions, width)
        self.targets = torch.randint(8, (records, self.positions), generator=draw)
        alike = slice(1, records // 2)  # Gradients in one direction: whatever rescales them all at once is seen.
        self.inputs[alike] = self.inputs[1] + 0.1 * self.inputs[alike]
        self.targets[alike] = self.targets[1]
        self.frozen, self.head = normal(width, width), normal(8, width)
        index = torch.arange(records)
        lengths = torch.where(index < records // 2, 1, index % self.positions + 1)  # Half are short, some are long.
        lengths[0] = self.positions
        mask = (torch.arange(self.positions) < lengths[:, None]).double()
        # Half have gradients near the clip norm, where a neighbour can rescale them; the others far below or above it.
        scales = torch.where(index < records // 2, 0.4, 10.0 ** (index.double() % 7 - 3))
        self.weights = mask / lengths[:, None] * scales[:, None] * (0.0 if quiet else 1.0)
        if not quiet:
            self.weights[-1, 0], self.weights[-2, 0] = torch.nan, torch.inf
        self.a = normal(rank, width).requires_grad_()
        self.b = normal(width, rank).requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained."""
        return [self.a, self.b]

    def losses_of(self, engine: Engine) -> Callable[[Sequence[int]], Tensor]:
        """Return the function that `DpSgd.step` takes."""

        def route(inputs: Tensor, projected: Tensor, upstream: Tensor) -> None:
            add_grad_sample(self.a, torch.einsum("bso,or,bsi->bri", upstream, self.b.detach(), inputs))
            add_grad_sample(self.b, torch.einsum("bso,bsr->bor", upstream, projected))

        def losses(indices: Sequence[int]) -> Tensor:
            rows = list(indices)
            hidden = low_rank_linear(self.inputs[rows], self.frozen, self.a, self.b, route, self.parameters)
            return engine.losses(hidden, self.head, self.targets[rows], self.weights[rows])

        return losses
