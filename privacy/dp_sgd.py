"""One privatised step: per-example losses in, a noised mean of clipped gradients out.

Rules:
    1. Losses arrive as a vector, one per example. A scalar is refused: the engine owns the reduction.
    2. Each unit is clipped alone. Examples of one unit are added up first; what is not finite contributes zero.
    3. Microbatches only bound memory. Their clipped sums add up, and noise is added once, to the logical sum.
    4. The divisor is the public expected batch, never the batch that was drawn. An empty batch is noised and counted.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from privacy import noise
from privacy.errors import EngineError, LossShapeError, StepsExhaustedError, UnsupportedLayerError
from privacy.events import DpSgdRun, Unit
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
    """The sum over units of their clipped gradients, gathered microbatch by microbatch.

    A unit may go on from one microbatch to the next: what it has added up so far is carried over, so memory holds one
    unit's gradient however many examples it has.
    """

    def __init__(self, parameters: Iterable[Tensor], clip_norm: float) -> None:
        """Start at zero.

        Args:
            parameters: What is trained; each must receive `grad_sample` in backward.
            clip_norm: Largest L2 norm of one unit's gradient over all parameters, > 0.
        """
        self.parameters = list(parameters)
        self.clip_norm = clip_norm
        self.examples = 0
        self.sums = [torch.zeros_like(parameter, requires_grad=False) for parameter in self.parameters]
        self._open: tuple[int, list[Tensor]] | None = None  # The unit that may go on, and its sums, each (1, numbers).
        self._clipped: set[int] = set()

    def add(self, losses: Tensor, units: Sequence[int] | None = None) -> Tensor:
        """Back-propagate one microbatch, clip each unit that ended and add it.

        Args:
            losses: Shape (batch,), one loss per example.
            units: Number of each example's unit, (batch,), equal ones side by side. The last one may go on in the next
                microbatch: it is clipped when another follows, or by `close`. None: each example is a unit.

        Returns:
            Gradient norms before clipping of what was clipped, shape (batch,) where each example is a unit: private,
            for tests and audits, not for a log.

        Raises:
            LossShapeError: `losses` is a scalar, or its length is not the number of per-example gradients or of units.
            UnsupportedLayerError: A parameter received no per-example gradient.
            EngineError: A unit comes back after it was clipped. In all cases the sum is unchanged.

        Source: Abadi et al. 2016, arXiv:1607.00133, algorithm 1; units larger than an example, arXiv:1710.06963.
        """
        if losses.dim() != 1:
            raise LossShapeError(
                f"losses must be a vector with one entry per example, got shape {tuple(losses.shape)}; "
                "do not average over the batch"
            )
        named = [] if units is None else self._segments(units, len(losses))
        rows = self._gradients(losses)
        self.examples += len(losses)
        finite = losses.detach().isfinite()
        if units is None:
            return self._clip(rows, finite)
        return self._clip_units(rows, finite, named)

    def close(self) -> Tensor:
        """Clip and add the unit that was still going on; return its norm, shape (1,), or nothing, shape (0,)."""
        if self._open is None:
            return torch.zeros(0)
        (unit, rows), self._open = self._open, None
        self._clipped.add(unit)
        return self._clip(rows, torch.ones(1, dtype=torch.bool))

    def _segments(self, units: Sequence[int], examples: int) -> list[tuple[int, int]]:
        """Units in their order, each with its number of examples; refuses one that was clipped before."""
        if len(units) != examples:
            raise LossShapeError(f"{examples} losses but {len(units)} unit numbers; name the unit of each example")
        named = [(unit, len(list(group))) for unit, group in groupby(units)]
        seen = set(self._clipped)
        if self._open is not None and named and named[0][0] != self._open[0]:
            seen.add(self._open[0])
        for unit, _ in named:
            if unit in seen:  # Clipped twice, a unit would move the sum by twice the clip norm.
                raise EngineError(f"unit {unit} comes back after it was clipped; put its examples side by side")
            seen.add(unit)
        return named

    def _gradients(self, losses: Tensor) -> list[Tensor]:
        """Per-example gradients of each parameter, (batch, numbers)."""
        for parameter in self.parameters:
            take_grad_sample(parameter)
        losses.sum().backward()
        gradients = [take_grad_sample(parameter) for parameter in self.parameters]
        rows: list[Tensor] = []
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
        return rows

    def _clip_units(self, rows: Sequence[Tensor], finite: Tensor, named: Sequence[tuple[int, int]]) -> Tensor:
        """Add up the examples of each unit, clip the units that ended, carry the last one over."""
        if not named:
            return torch.zeros(0)
        _silence(rows, finite & _norms(rows).isfinite())
        sizes = torch.tensor([size for _, size in named])
        segment = torch.repeat_interleave(torch.arange(len(named)), sizes)  # (batch,)
        sums = [row.new_zeros(len(named), row.shape[1]).index_add_(0, segment, row) for row in rows]  # (units, numbers)
        norms = []
        if self._open is not None and self._open[0] == named[0][0]:
            for total, carried in zip(sums, self._open[1], strict=True):
                total[:1] += carried
        else:
            norms.append(self.close())
        norms.append(self._clip([total[:-1] for total in sums], torch.ones(len(named) - 1, dtype=torch.bool)))
        self._clipped.update(unit for unit, _ in named[:-1])
        self._open = named[-1][0], [total[-1:].clone() for total in sums]
        return torch.cat([norm.double() for norm in norms])

    def _clip(self, rows: Sequence[Tensor], finite: Tensor) -> Tensor:
        """Scale each row to the clip norm, add it, and return the norms before."""
        norms = _norms(rows)  # (batch,)
        finite = finite & norms.isfinite()
        factors = torch.where(finite, (self.clip_norm / (norms + _NORM_FLOOR)).clamp(max=1.0), 0.0)  # (batch,)
        _silence(rows, finite)
        for total, row in zip(self.sums, rows, strict=True):
            total += (factors.to(row.dtype) @ row).view_as(total)
        return norms


def _norms(rows: Sequence[Tensor]) -> Tensor:
    """L2 norm over all parameters together, shape (batch,)."""
    norms: Tensor = torch.stack([row.norm(dim=1) for row in rows]).norm(dim=0)
    return norms


def _silence(rows: Sequence[Tensor], finite: Tensor) -> None:
    """Put zeros where a row is not finite: zero times NaN is NaN, so the row itself must go."""
    if not bool(finite.all()):
        for row in rows:
            row[~finite] = 0


class DpSgd:
    """Draws the steps of one reserved run and no more: sample, clip, sum, noise once, divide by the public batch."""

    def __init__(
        self,
        run: DpSgdRun,
        *,
        records: int,
        parameters: Iterable[Tensor],
        units: Sequence[int] | None = None,
        gaussian: Callable[[tuple[int, ...]], Tensor] = noise.gaussian,
        coins: Callable[[int, float], list[int]] = noise.coins,
    ) -> None:
        """Prepare the run.

        Args:
            run: Noise, sampling rate, steps and clip norm, as reserved in the ledger.
            records: Number of records. Where each record is a unit, it is public under the zero-out relation
                (privacy.events.Neighbours).
            parameters: What is trained.
            units: Number of each record's unit, (records,): records of one unit are drawn together and make one clipped
                contribution. Then the number of units is what is public. None: each record is a unit.
            gaussian: Source of standard normal noise; the default cannot be seeded.
            coins: Poisson sampler: (units, rate) in, drawn units out.

        Raises:
            EngineError: There is no record, so no public batch to divide by; or the run hides more than a record and
                nobody said which records belong together.
        """
        if records < 1:
            raise EngineError(f"a run needs at least one record, got {records}; remember something first")
        if units is None and run.unit is not Unit.RECORD:
            raise EngineError(
                f"the run hides one {run.unit.value}, and no record was given the number of its {run.unit.value}; "
                "give `units`"
            )
        if units is not None and len(units) != records:
            raise EngineError(f"{records} records but {len(units)} unit numbers; give one for each record")
        self.run, self.records, self.parameters = run, records, list(parameters)
        self.steps_drawn = 0
        self._unit_of = None if units is None else list(units)
        self._members = _members(range(records) if units is None else units)
        self._gaussian, self._coins = gaussian, coins

    @property
    def units(self) -> int:
        """Number of units, of which each is clipped as a whole."""
        return len(self._members)

    @property
    def expected_batch(self) -> float:
        """The public divisor: sampling rate times number of units."""
        return self.run.sampling_rate * self.units

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
        drawn = [record for unit in self._coins(self.units, self.run.sampling_rate) for record in self._members[unit]]
        clipped = ClippedSum(self.parameters, self.run.clip_norm)
        for start in range(0, len(drawn), microbatch):
            part = drawn[start : start + microbatch]
            clipped.add(losses_of(part), None if self._unit_of is None else [self._unit_of[record] for record in part])
        clipped.close()
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


def _members(units: Iterable[int]) -> list[list[int]]:
    """Records of each unit, units in the order in which they first appear."""
    members: dict[int, list[int]] = {}
    for record, unit in enumerate(units):
        members.setdefault(unit, []).append(record)
    return list(members.values())
