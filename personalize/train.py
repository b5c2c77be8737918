"""Adapter, records, plan and receipt in; candidate adapter out.

The private gradient is clipped and noised by privacy.dp_sgd; the gradient of the public rehearsal texts is added after
that, so that public and private text never share a clipped sum (design decision 8).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from personalize.adapter import Adapter
from personalize.errors import TrainingError
from personalize.forward import Prefix, collate, completion_losses
from personalize.plan import NightPlan
from personalize.trainable import Coefficients, Trainable
from privacy import DpSgd, DpSgdRun, require_independent_examples

__all__ = ["Adam", "DampedStep", "train", "update_for"]

MICROBATCH = 16  # Records at a time; bounds memory and never changes the result.

Progress = Callable[[int, int], None]
"""Called with (steps done, steps of the night)."""


class Update(Protocol):
    """Turns the mean gradient of a step into a change of the parameters."""

    def __call__(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Change `parameters` in place."""


class DampedStep:
    """Steps in whitened coordinates toward the linear minimum-mean-square estimate of a person.

    A coordinate with between-people variance e, seen through n records of unit information and noise of standard
    deviation s, is worth the gain n / (n + 1/e + s²/(n e)) of its Newton step: weak coordinates switch themselves off
    as the noise grows. Everything in the gain is public.
    """

    def __init__(self, variance: Tensor, *, records: float, noise_std: float, step_size: float) -> None:
        """Fix the gains.

        Args:
            variance: Between-people variance of each coefficient, shape (count,).
            records: Public number of records.
            noise_std: Standard deviation of the noise on the summed gradient, 0 without privacy.
            step_size: Length over the step that whitening suggests, > 0; too long a one overshoots.
        """
        self.pull = 1.0 / (records * variance)  # The prior draws every coefficient back to the public mean.
        self.gain = step_size / (1.0 + self.pull + (noise_std / records) ** 2 / variance)

    def __call__(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Move the one coefficient vector."""
        (theta,), (gradient,) = parameters, gradients
        theta -= self.gain.to(theta.dtype) * (gradient + self.pull.to(theta.dtype) * theta)


class Adam:
    """Adam on the privatised gradient (arXiv:1412.6980); post-processing, so its state costs nothing."""

    def __init__(self, parameters: Sequence[Tensor], *, rate: float) -> None:
        """Wrap torch's optimizer for `parameters`."""
        self._optimizer = torch.optim.Adam(list(parameters), lr=rate)

    def __call__(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Take one step."""
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        self._optimizer.zero_grad()


def update_for(parts: Trainable, plan: NightPlan, *, records: int, noise: float) -> Update:
    """The update rule of an adapter kind; `noise` is the noise multiplier, 0 without privacy."""
    if isinstance(parts, Coefficients):
        return DampedStep(
            parts.basis.variance,
            records=plan.sampling_rate * records,
            noise_std=noise * plan.clip_norm,
            step_size=plan.step_size,
        )
    return Adam(parts.parameters, rate=plan.step_size)


def train(
    model: Any,
    parts: Trainable,
    private: Sequence[Prefix],
    public: Sequence[Prefix],
    plan: NightPlan,
    *,
    run: DpSgdRun | None,
    draw: Callable[[], None] = lambda: None,
    progress: Progress = lambda done, steps: None,
) -> Adapter:
    """Train the parameters of `parts` for one night.

    Args:
        model: The base; no tensor of it is changed.
        parts: What is trained, and from where.
        private: The night's records after the frozen layers.
        public: Rehearsal texts after the frozen layers; each step takes the next few.
        plan: Public settings.
        run: The reserved run. None trains without privacy, for comparison only: its result must never be admitted.
        draw: Called before each step's first gradient: draws the step from the receipt.
        progress: Called after each step.

    Raises:
        TrainingError: A parameter is no longer finite; the old adapter stays.
        privacy.errors.PrivacyError: The engine refused the model or a step, or the receipt did; what was reserved stays
            spent.
    """
    require_independent_examples(model)
    ordered = sorted(private, key=lambda prefix: len(prefix.record.ids))  # Equal lengths meet: less padding.
    engine = DpSgd(run, records=len(ordered), parameters=parts.parameters) if run else None
    update = update_for(parts, plan, records=len(ordered), noise=run.noise_multiplier if run else 0.0)
    cut = parts.start.spec.cut

    def losses_of(indices: Sequence[int]) -> Tensor:
        batch = collate([ordered[index] for index in indices])
        return completion_losses(model, batch, cut=cut, head_rows=plan.head_rows)

    with parts.attached(model):
        for step in range(plan.steps):
            draw()
            if engine:
                gradients = engine.step(losses_of, microbatch=MICROBATCH)
            else:
                gradients = _summed(parts, losses_of, range(len(ordered)), len(ordered))
            if plan.rehearsal_weight > 0 and plan.rehearsal_per_step > 0 and public:
                rehearsed = _rehearsed(model, parts, public, plan, step)
                gradients = [
                    mine + plan.rehearsal_weight * theirs for mine, theirs in zip(gradients, rehearsed, strict=True)
                ]
            with torch.no_grad():
                update(parts.parameters, gradients)
            if not all(bool(parameter.isfinite().all()) for parameter in parts.parameters):
                raise TrainingError(
                    f"step {step + 1} of {plan.steps} left numbers that are not finite; the old adapter stays"
                )
            parts.refresh()
            progress(step + 1, plan.steps)
    return parts.adapter()


def _rehearsed(model: Any, parts: Trainable, public: Sequence[Prefix], plan: NightPlan, step: int) -> list[Tensor]:
    """Mean gradient of the next few public texts."""
    first = step * plan.rehearsal_per_step
    chosen = [public[(first + index) % len(public)] for index in range(plan.rehearsal_per_step)]

    def losses_of(indices: Sequence[int]) -> Tensor:
        batch = collate([chosen[index] for index in indices])
        return completion_losses(model, batch, cut=parts.start.spec.cut, head_rows=plan.head_rows)

    return _summed(parts, losses_of, range(len(chosen)), len(chosen))


def _summed(
    parts: Trainable, losses_of: Callable[[Sequence[int]], Tensor], indices: Sequence[int], count: int
) -> list[Tensor]:
    """Plain mean gradient, neither clipped nor noised: for public text, and for comparison."""
    parts.summed = True
    try:
        for start in range(0, len(indices), MICROBATCH):
            losses_of(indices[start : start + MICROBATCH]).sum().backward()
    finally:
        parts.summed = False
    gradients = []
    for parameter in parts.parameters:
        gradients.append(parameter.grad / count if parameter.grad is not None else torch.zeros_like(parameter))
        parameter.grad = None
    return gradients
