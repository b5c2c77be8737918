"""One privatised step: per-example losses in, a noised mean of clipped gradients out.

Rules:
    1. Losses arrive as a vector, one per example. A scalar is refused: the engine owns the reduction.
    2. Each example is clipped alone; an example whose gradient is not finite contributes zero.
    3. Microbatches only bound memory. Their clipped sums add up, and noise is added once, to the logical sum.
    4. The divisor is the public expected batch, never the batch that was drawn. An empty batch is noised and counted.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from privacy import noise
from privacy.errors import EngineError, LossShapeError, StepsExhaustedError, UnsupportedLayerError
from privacy.events import DpSgdRun
from privacy.per_example import take_grad_sample

__all__ = ["ClippedSum", "DpSgd", "require_independent_examples"]

LossesOf = Callable[[Sequence[int]], Tensor]
"""Indices of records in, their losses out: shape (len(indices),), in nats, with a graph to the parameters."""

_NORM_FLOOR = 1e-6  # Keeps the ratio finite for a zero gradient; the same constant as Opacus, so sums can be compared.
_MIXING = (nn.modules.batchnorm._BatchNorm, nn.SyncBatchNorm)


def require_independent_examples(model: nn.Module) -> None:
    """Refuse a model in which one example's output depends on another's.

    Raises:
        UnsupportedLayerError: A batch normalisation anywhere, or a dropout that is switched on; nothing was trained.
    """
    for name, module in model.named_modules():
        if isinstance(module, _MIXING):
            raise UnsupportedLayerError(f"layer {name} mixes the examples of a batch; replace it by a layer norm")
        if isinstance(module, nn.Dropout) and module.training and module.p > 0:
            raise UnsupportedLayerError(f"layer {name} draws one dropout mask for a batch; call model.eval() first")


class ClippedSum:
    """The sum over examples of their clipped gradients, gathered microbatch by microbatch."""

    def __init__(self, parameters: Iterable[Tensor], clip_norm: float) -> None:
        """Start at zero.

        Args:
            parameters: What is trained; each must receive `grad_sample` in backward.
            clip_norm: Largest L2 norm of one example's gradient over all parameters, > 0.
        """
        self.parameters = list(parameters)
        self.clip_norm = clip_norm
        self.examples = 0
        self.sums = [torch.zeros_like(parameter, requires_grad=False) for parameter in self.parameters]

    def add(self, losses: Tensor) -> Tensor:
        """Back-propagate one microbatch, clip each example and add.

        Args:
            losses: Shape (batch,), one loss per example.

        Returns:
            Gradient norms before clipping, shape (batch,): private, for tests and audits, not for a log.

        Raises:
            LossShapeError: `losses` is a scalar, or its length is not the number of per-example gradients.
            UnsupportedLayerError: A parameter received no per-example gradient. In both cases the sum is unchanged.

        Source: Abadi et al. 2016, arXiv:1607.00133, algorithm 1.
        """
        if losses.dim() != 1:
            raise LossShapeError(
                f"losses must be a vector with one entry per example, got shape {tuple(losses.shape)}; "
                "do not average over the batch"
            )
        for parameter in self.parameters:
            take_grad_sample(parameter)
        losses.sum().backward()
        gradients = [take_grad_sample(parameter) for parameter in self.parameters]
        rows: list[Tensor] = []  # each (batch, numbers)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = None  # What a hook-based backend summed over the batch is not clipped: never used.
            if gradient is None:
                raise UnsupportedLayerError(
                    f"a parameter of shape {tuple(parameter.shape)} left no per-example gradient; "
                    "wrap its layer or freeze it"
                )
            if len(gradient) != len(losses):
                raise LossShapeError(
                    f"{len(losses)} losses but {len(gradient)} per-example gradients; give one loss per example"
                )
            rows.append(gradient.flatten(1))
        norms: Tensor = torch.stack([row.norm(dim=1) for row in rows]).norm(dim=0)  # (batch,)
        finite = norms.isfinite() & losses.detach().isfinite()
        factors = torch.where(finite, (self.clip_norm / (norms + _NORM_FLOOR)).clamp(max=1.0), 0.0)  # (batch,)
        for total, row in zip(self.sums, rows, strict=True):
            if not bool(finite.all()):
                row[~finite] = 0  # Zero times NaN is NaN: the row itself must go.
            total += (factors.to(row.dtype) @ row).view_as(total)
        self.examples += len(losses)
        return norms


class DpSgd:
    """Draws the steps of one reserved run and no more: sample, clip, sum, noise once, divide by the public batch."""

    def __init__(
        self,
        run: DpSgdRun,
        *,
        records: int,
        parameters: Iterable[Tensor],
        gaussian: Callable[[tuple[int, ...]], Tensor] = noise.gaussian,
        coins: Callable[[int, float], list[int]] = noise.coins,
    ) -> None:
        """Prepare the run.

        Args:
            run: Noise, sampling rate, steps and clip norm, as reserved in the ledger.
            records: Number of records, public under the zero-out relation (privacy.events.Neighbours).
            parameters: What is trained.
            gaussian: Source of standard normal noise; the default cannot be seeded.
            coins: Poisson sampler: (records, rate) in, drawn indices out.

        Raises:
            EngineError: There is no record, so no public batch to divide by.
        """
        if records < 1:
            raise EngineError(f"a run needs at least one record, got {records}; remember something first")
        self.run, self.records, self.parameters = run, records, list(parameters)
        self.steps_drawn = 0
        self._gaussian, self._coins = gaussian, coins

    @property
    def expected_batch(self) -> float:
        """The public divisor: sampling rate times number of records."""
        return self.run.sampling_rate * self.records

    def step(self, losses_of: LossesOf, *, microbatch: int = 16) -> list[Tensor]:
        """One privatised gradient, shaped like the parameters.

        Args:
            losses_of: Computes the losses of some records; called once per microbatch.
            microbatch: Records at a time; changes memory and time, never the result.

        Raises:
            StepsExhaustedError: The run's steps are used up; nothing was computed.
            LossShapeError: As `ClippedSum.add`; the step counts as drawn.
        """
        if self.steps_drawn >= self.run.steps:
            raise StepsExhaustedError(f"all {self.run.steps} steps of this run are drawn; reserve another run")
        self.steps_drawn += 1  # Counted before any gradient exists, so a crash in the step cannot give it back.
        drawn = self._coins(self.records, self.run.sampling_rate)
        clipped = ClippedSum(self.parameters, self.run.clip_norm)
        for start in range(0, len(drawn), microbatch):
            clipped.add(losses_of(drawn[start : start + microbatch]))
        return self._privatise(clipped.sums)

    def _privatise(self, sums: list[Tensor]) -> list[Tensor]:
        """Add the noise, once, to the logical sum, and divide by the public batch."""
        std = self.run.noise_multiplier * self.run.clip_norm
        sizes = [total.numel() for total in sums]
        draw = self._gaussian((sum(sizes),)).split(sizes)  # One draw for all parameters of the step.
        return [
            ((total.double() + std * part.view(total.shape)) / self.expected_batch).to(total.dtype)
            for total, part in zip(sums, draw, strict=True)
        ]
