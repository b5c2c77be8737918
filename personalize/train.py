"""Adapter, records, plan and receipt in; candidate adapter out.

The private gradient is clipped and noised by privacy.dp_sgd; the gradient of the public rehearsal texts is added after
that, so that public and private text never share a clipped sum (design decision 8).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from personalize.adapter import Adapter, attached
from personalize.checkpoint import TrainingState
from personalize.errors import NightStoppedError, TrainingError
from personalize.forward import Prefix, bare_states, collate, completion_losses, kl_losses
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

    def state(self) -> dict[str, Tensor]:
        """What it remembers from step to step, by name."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned."""


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

    def state(self) -> dict[str, Tensor]:
        """Nothing: its gains are fixed by the plan."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to do."""


class Adam:
    """Adam on the privatised gradient (arXiv:1412.6980); post-processing, so its state costs nothing."""

    def __init__(self, parameters: Sequence[Tensor], *, rate: float) -> None:
        """Wrap torch's optimizer for `parameters`."""
        self._parameters = list(parameters)
        self._optimizer = torch.optim.Adam(self._parameters, lr=rate)

    def __call__(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Take one step."""
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts, by number of parameter and name."""
        return {
            f"{number}.{name}": value
            for number, parameter in enumerate(self._parameters)
            for name, value in self._optimizer.state[parameter].items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        for key, value in state.items():
            number, name = key.split(".", 1)
            self._optimizer.state[self._parameters[int(number)]][name] = value.clone()


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
    units: Sequence[int] | None = None,
    draw: Callable[[], None] = lambda: None,
    progress: Progress = lambda done, steps: None,
    resume: TrainingState | None = None,
    save: Callable[[TrainingState], None] = lambda state: None,
) -> Adapter:
    """Train the parameters of `parts` for one night.

    Args:
        model: The base; no tensor of it is changed.
        parts: What is trained, and from where.
        private: The night's records after the frozen layers.
        public: Rehearsal texts after the frozen layers; each step takes the next few.
        plan: Public settings.
        run: The reserved run. None trains without privacy, for comparison only: its result must never be admitted.
        units: Number of each private record's unit; records of one unit are averaged and clipped together. None: each
            record is a unit, which only a run for records allows.
        draw: Called before each step's first gradient: draws the step from the receipt.
        progress: Called after each step.
        resume: Where an earlier call was stopped, for the same everything else; None begins.
        save: Keeps where training stands: after each step, and when it is stopped in one.

    Raises:
        TrainingError: A parameter is no longer finite; the old adapter stays.
        NightStoppedError: It was asked to stop (personalize.stopping); `save` was told where.
        privacy.errors.PrivacyError: The engine refused the model or a step, or the receipt did; what was reserved stays
            spent.
    """
    require_independent_examples(model)
    here = resume or TrainingState(tensors={})
    _restore(parts, here)
    if here.step >= plan.steps:
        return parts.adapter()
    order = sorted(
        range(len(private)), key=lambda index: len(private[index].record.ids)
    )  # Equal lengths: less padding.
    ordered, shares = [private[index] for index in order], _shares(units, order)
    named = None if units is None else [units[index] for index in order]
    count = len(order) if units is None else len(set(units))
    engine = DpSgd(run, records=len(order), units=named, parameters=parts.parameters) if run else None
    update = update_for(parts, plan, records=count, noise=run.noise_multiplier if run else 0.0)
    cut = parts.start.spec.cut

    def losses_of(indices: Sequence[int]) -> Tensor:
        batch = collate([ordered[index] for index in indices])
        losses = completion_losses(model, batch, cut=cut, head_rows=plan.head_rows)
        return losses * shares[list(indices)].to(losses.dtype)

    update.restore(_named(here.tensors, "update."))
    taken = here.taken
    if engine:
        engine.steps_drawn = here.step  # What an earlier process drew is not there to be drawn again.
    with parts.attached(model):
        for step in range(here.step, plan.steps):
            if here.drawn and step == here.step:
                # Its draw is used up on the disk before it is begun again.
                save(_state(parts, update, step + 1, taken))
            else:
                draw()
            try:  # The public gradient first: once there is noise, nothing may stop this step.
                rehearsed = _rehearsed(model, parts, public, plan, step) if _rehearses(plan, public) else None
                if engine:
                    gradients = engine.step(losses_of, microbatch=MICROBATCH)
                else:
                    gradients = _summed(parts, losses_of, range(len(ordered)), count)
            except NightStoppedError:  # Only a forward pass raises it, so no noise was drawn: the step has no output.
                save(_state(parts, update, step, taken, drawn=True))
                raise
            if rehearsed is not None:
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
            taken += 1
            save(_state(parts, update, step + 1, taken))
            progress(step + 1, plan.steps)
    return parts.adapter()


def _state(parts: Trainable, update: Update, step: int, taken: int, *, drawn: bool = False) -> TrainingState:
    """Where training stands before `step`."""
    tensors = {f"parameter.{number}": value for number, value in enumerate(parts.parameters)}
    tensors |= {f"update.{name}": value for name, value in update.state().items()}
    return TrainingState(step=step, drawn=drawn, taken=taken, tensors=tensors)


@torch.no_grad()
def _restore(parts: Trainable, state: TrainingState) -> None:
    """Put the parameters where they were."""
    for number, value in _named(state.tensors, "parameter.").items():
        parts.parameters[int(number)].copy_(value)


def _named(tensors: Mapping[str, Tensor], first: str) -> dict[str, Tensor]:
    return {name.removeprefix(first): value for name, value in tensors.items() if name.startswith(first)}


def _rehearses(plan: NightPlan, public: Sequence[Prefix]) -> bool:
    return plan.rehearsal_weight > 0 and plan.rehearsal_per_step > 0 and len(public) > 0


def _shares(units: Sequence[int] | None, order: Sequence[int]) -> Tensor:
    """One over the records of each record's unit, (records,): a function of that unit alone, as clipping needs."""
    if units is None:
        return torch.ones(len(order))
    if len(units) != len(order):
        raise TrainingError(f"{len(order)} private records but {len(units)} unit numbers; give one for each record")
    sizes = Counter(units)
    return torch.tensor([1 / sizes[units[index]] for index in order], dtype=torch.float64)


def _rehearsed(model: Any, parts: Trainable, public: Sequence[Prefix], plan: NightPlan, step: int) -> list[Tensor]:
    """Mean gradient of the next few public texts: of their loss and, where asked for, of the distance to the base."""
    first, cut = step * plan.rehearsal_per_step, parts.start.spec.cut
    chosen = [public[(first + index) % len(public)] for index in range(plan.rehearsal_per_step)]
    unchanged = replace(parts.start, b={site: torch.zeros_like(value) for site, value in parts.start.b.items()})

    def losses_of(indices: Sequence[int]) -> Tensor:
        batch = collate([chosen[index] for index in indices])
        losses = completion_losses(model, batch, cut=cut, head_rows=plan.head_rows)
        if plan.rehearsal_kl == 0:
            return losses
        with attached(model, unchanged):
            bare = bare_states(model, batch, cut=cut)
        return losses + plan.rehearsal_kl * kl_losses(model, batch, bare, cut=cut, head_rows=plan.head_rows)

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
