"""Lessons and an untrained student in, a trained one out: the loop, and what happens when it stops.

The lower layers are frozen; training begins from what they make of each sequence (sdk.build.outputs). At the end of
the run the trained matrices are seen on their 4-bit grid: forward through the nearest values, backward to weights that
stay in float32 (sdk.build.grid). The state is kept every KEPT_EVERY_SECONDS and when the run is interrupted; the same
call goes on from there. A loss or gradient that is no number stops the run before any weight has moved.

Several processes (sdk.build.many) take a share of each step's lessons and learn what one would; the first one writes.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from personalize.forward import decoder_layers
from sdk.build.grid import Grid
from sdk.build.inner import InnerTeacher
from sdk.build.losses.head import HEAD_TERMS, HeadLoss, LossWeights, head_loss, self_distillation
from sdk.build.losses.outcomes import TopK
from sdk.build.many import ALONE, Group
from sdk.build.outputs import Lesson, multiplied_in
from sdk.build.sequences import batches
from sdk.build.worked import Worked
from sdk.errors import DistillError

__all__ = ["Recipe", "Trained", "collated", "train"]

KEPT_EVERY_SECONDS = 240.0
WARM_UP = 20  # Steps until the rate is at its highest.
CLIP = 1.0  # Largest norm of a step's gradient.
WATCHED_EVERY = 25  # Steps between two looks at the largest activations.
IMPORTANCE_BATCHES = 4  # Batches whose inputs say what matters when the grids are fitted.


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one run of training goes."""

    frozen: int
    """Layers below the first trained one."""
    mix: LossWeights
    """What counts how much."""
    rate: float
    """AdamW's highest rate."""
    last_rate: float = 0.1
    """The rate at the end, as a share of the highest, in (0, 1]."""
    passes: int = 1
    """Times that each lesson with a teacher is seen, ≥ 1; those without are seen once, spread over all passes."""
    batch_tokens: int = 2_048
    """Tokens of a step."""
    quantised_share: float = 0.0
    """Share of the steps, at the end, that see weights on the grid."""
    exits: tuple[int, ...] = ()
    """Trained layers whose outputs learn from the last one, where self-distillation has a weight."""
    precision: str = "float32"
    """What the trained layers multiply in, forward and backward: "float32" or "bfloat16"."""
    seed: int = 0
    """Decides the order of the lessons."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run found; the model itself was changed in place."""

    steps: int
    """Steps of the whole run."""
    tokens: int
    """Tokens that went through the trained layers."""
    losses: tuple[tuple[int, float], ...]
    """(step, mean loss of a counted token in nats) at each step, those before a resumption included."""
    largest: float
    """Largest activation seen between trained layers; float16 holds up to 65,504."""
    grids: Mapping[str, Grid]
    """Grid of each trained matrix by its name; empty where no step was quantised."""
    latent: Mapping[str, Tensor]
    """What was trained, by its name, float32, before it went on its grid: where a next run begins."""


@dataclass(frozen=True, kw_only=True)
class Collated:
    """Lessons side by side, padded on the right."""

    hidden: Tensor
    """Shape (batch, seq, width), float32."""
    targets: Tensor
    """Next token at each position, shape (batch, seq)."""
    ids: Tensor
    """The tokens themselves, shape (batch, seq)."""
    weights: Tensor
    """1 where the next token counts, shape (batch, seq)."""
    teacher: TopK | None
    """What the teacher says, zero where nothing counts."""


def collated(group: Sequence[Lesson]) -> Collated:
    """Put lessons side by side."""
    size, length = len(group), max(len(lesson.sequence.ids) for lesson in group)
    hidden = torch.zeros(size, length, group[0].hidden.shape[1])
    targets, weights = torch.zeros(size, length, dtype=torch.long), torch.zeros(size, length)
    ids = torch.zeros_like(targets)
    told = None
    if group[0].top_ids is not None:
        top_k = group[0].top_ids.shape[1]
        told = (torch.arange(top_k).repeat(size, length, 1), torch.zeros(size, length, top_k))
    for row, lesson in enumerate(group):
        one = lesson.sequence
        counted = slice(one.first - 1, len(one.ids) - 1)
        hidden[row, : len(one.ids)] = lesson.hidden.float()
        ids[row, : len(one.ids)] = torch.tensor(one.ids)
        targets[row, : len(one.ids) - 1] = torch.tensor(one.ids[1:])
        weights[row, counted] = 1.0
        if told is not None and lesson.top_ids is not None and lesson.top_logs is not None:
            told[0][row, counted], told[1][row, counted] = lesson.top_ids.long(), lesson.top_logs.float()
    teacher = None
    if told is not None:
        teacher = TopK(ids=told[0], log_probs=told[1], rest=(1 - told[1].exp().sum(2)).clamp(min=0))
    return Collated(hidden=hidden, targets=targets, ids=ids, weights=weights, teacher=teacher)


def train(
    model: LlamaForCausalLM,
    lessons: Sequence[Lesson],
    recipe: Recipe,
    *,
    worked: Worked,
    name: str,
    progress: Callable[[str, int, int], None],
    group: Group = ALONE,
    inner: InnerTeacher | None = None,
) -> Trained:
    """Train the layers above the frozen ones, and the final norm, in place.

    Args:
        model: The student (or a teacher to be corrected); left with trained weights, on their grids where quantised.
        lessons: What is learned; those without a teacher count only where cross-entropy has a weight.
        recipe: How.
        worked: Where the state is kept.
        name: Under which name.
        progress: Told (what with the running loss, steps done, steps in all).
        group: The processes that train together, all with the same arguments and the same folder of work.
        inner: Whose inner states are learned, where features or attention have a weight.

    Raises:
        DistillError: A weight without what it weighs: nothing was done. A loss or gradient that is no number: says at
            which step and layer; the last state kept stays.
    """
    _require_sources(lessons, recipe, inner)
    run = _Run(model, lessons, recipe, group, inner)
    run.resume(worked.read(name))
    kept = time.monotonic()
    try:
        while run.done < len(run.order):
            run.step()
            progress(f"{name}, loss {run.smooth:.3f}", run.done, len(run.order))
            if group.first and time.monotonic() - kept > KEPT_EVERY_SECONDS:
                worked.keep(name, run.state())
                kept = time.monotonic()
    except KeyboardInterrupt:
        if group.first:
            worked.keep(name, run.state())
        raise
    if group.first:
        worked.keep(name, run.state())
    run.settle()
    return Trained(
        steps=run.done,
        tokens=run.tokens,
        losses=tuple(run.losses),
        largest=run.largest,
        grids=dict(run.grids),
        latent=run.latent,
    )


def _require_sources(lessons: Sequence[Lesson], recipe: Recipe, inner: InnerTeacher | None) -> None:
    """Refuse a weight that would count nothing."""
    mix = recipe.mix
    if (mix.features or mix.attention) and inner is None:
        raise DistillError("features or attention have a weight but no teacher shows its inner states; set both to 0")
    if mix.self_distillation and not recipe.exits:
        raise DistillError("self_distillation has a weight but no layer is an exit; name exits or set it to 0")
    alone = not all(lesson.top_ids is not None for lesson in lessons)
    if alone and not (mix.cross_entropy or mix.self_distillation):
        raise DistillError(
            "some lessons have no teacher, and cross_entropy has no weight to learn them by; give it one"
        )


class _Run:
    """One run: the model, the weights behind its grid, the optimizer, and how far it is."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        lessons: Sequence[Lesson],
        recipe: Recipe,
        group: Group = ALONE,
        inner: InnerTeacher | None = None,
    ) -> None:
        self.model, self.lessons, self.recipe, self.group, self.inner = model, lessons, recipe, group, inner
        self.trained = dict(_trained(model, recipe.frozen))
        model.requires_grad_(False)
        for parameter in self.trained.values():
            parameter.requires_grad_(True)
        self.latent = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        self.optimizer = torch.optim.AdamW(self.latent.values(), lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.0)
        self.order = _order(lessons, recipe)
        self.turn = len(self.order) - round(len(self.order) * recipe.quantised_share)  # First step on the grid.
        self.grids: dict[str, Grid] = {}
        self.inside: dict[str, Tensor] = {}  # Of what `show` put on its grid: where gradients pass.
        self.done = self.tokens = 0
        self.losses: list[tuple[int, float]] = []
        self.smooth = math.nan
        self.largest = 0.0

    def step(self) -> None:
        if self.done >= self.turn and not self.grids:
            self.grids = self._fitted()
        self.show()
        batch = [self.lessons[index] for index in self.order[self.done]]
        mine = self.group.shard(batch)
        loss = self._loss(collated(mine)) if mine else HeadLoss(total=torch.zeros(()), parts={}, count=torch.zeros(()))
        count = self.group.summed(loss.count)
        mean = float(self.group.summed(loss.total) / count)
        self._require_number(mean)
        if mine:
            (loss.total / count).backward()
        self.group.sum_gradients(self.trained.values())
        self._learn()
        if self.done % WATCHED_EVERY == 0:
            self.largest = self.group.most(self.largest)
        self.tokens += len(batch) * max(len(lesson.sequence.ids) for lesson in batch)
        self.smooth = mean if math.isnan(self.smooth) else 0.95 * self.smooth + 0.05 * mean
        self.losses.append((self.done, mean))
        self.done += 1

    @torch.no_grad()
    def show(self) -> None:
        """Put the weights, on their grids where those are fitted, where the model sees them."""
        for name, parameter in self.trained.items():
            latent = self.latent[name]
            if grid := self.grids.get(name):
                values, self.inside[name] = grid.seen(latent)
                parameter.copy_(values)
            else:
                parameter.copy_(latent.half() if self.grids else latent)  # Norms are stored in float16.

    def settle(self) -> None:
        """Leave the model as it will be used: shown, in evaluation mode, nothing to train."""
        self.show()
        self.model.requires_grad_(False)
        self.model.eval()

    def _loss(self, batch: Collated) -> HeadLoss:
        recipe, model = self.recipe, self.model
        hidden, exits, states = batch.hidden, {}, {}
        for layer in range(recipe.frozen, len(model.model.layers)):
            states[layer] = hidden
            with multiplied_in(recipe.precision):
                hidden = decoder_layers(model, hidden, layer, layer + 1)
            if self.done % WATCHED_EVERY == 0:
                self.largest = max(self.largest, float(hidden.detach()[batch.weights > 0].abs().max()))
            if layer in recipe.exits:
                exits[layer] = model.model.norm(hidden)
        last, head = model.model.norm(hidden), model.lm_head.weight
        loss = HeadLoss(total=batch.weights.new_zeros(()), parts={}, count=batch.weights.sum())
        mix = recipe.mix if batch.teacher else replace(recipe.mix, forward_kl=0, reverse_kl=0, jensen_shannon=0)
        if any(getattr(mix, term) for term in HEAD_TERMS):
            loss = head_loss(last, head, mix=mix, weights=batch.weights, targets=batch.targets, teacher=batch.teacher)
        total = loss.total
        if mix.self_distillation:
            own = self_distillation(exits, last, head, weights=batch.weights, temperature=mix.temperature)
            total = total + mix.self_distillation * own.total
        if self.inner and batch.teacher and (mix.features or mix.attention):
            states[len(model.model.layers)] = last
            total = total + self.inner.loss(model, states, batch.ids, batch.weights, mix)
        return HeadLoss(total=total, parts=loss.parts, count=loss.count)

    def _learn(self) -> None:
        for name, parameter in self.trained.items():
            gradient = parameter.grad
            assert gradient is not None
            if name in self.inside:
                gradient = gradient * self.inside[name]
            self.latent[name].grad = gradient
            parameter.grad = None
        norm = nn.utils.clip_grad_norm_(list(self.latent.values()), CLIP)
        if not math.isfinite(norm):
            broken = next(
                name
                for name, one in self.latent.items()
                if one.grad is None or not bool(torch.isfinite(one.grad).all())
            )
            raise DistillError(
                f"step {self.done}: the gradient of {broken} is no number; the last checkpoint stays, lower the rate"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate * _schedule(self.done, len(self.order), self.recipe.last_rate)
        self.optimizer.step()

    def _require_number(self, mean: float) -> None:
        if not math.isfinite(mean):
            broken = [name for name, one in self.latent.items() if not bool(torch.isfinite(one).all())]
            raise DistillError(
                f"step {self.done}: the loss is no number, {f'first in {broken[0]}' if broken else 'in the head'}; "
                "the last checkpoint stays, lower the rate"
            )

    def _fitted(self) -> dict[str, Grid]:
        """Grids for all trained matrices, by what their inputs weigh."""
        self.show()
        matters: dict[str, Tensor] = {}
        hooks = []
        for name, module in self.model.named_modules():
            if f"{name}.weight" in self.trained and isinstance(module, nn.Linear):
                hooks.append(module.register_forward_pre_hook(_noting(matters, f"{name}.weight")))
        try:
            with torch.no_grad():
                for indices in self.order[-IMPORTANCE_BATCHES:]:
                    batch = collated([self.lessons[index] for index in indices])
                    decoder_layers(self.model, batch.hidden, self.recipe.frozen, len(self.model.model.layers))
        finally:
            for hook in hooks:
                hook.remove()
        return {name: Grid.fitted(self.latent[name], importance=matter) for name, matter in matters.items()}

    def state(self) -> dict[str, Tensor]:
        """Everything that the rest of the run depends on."""
        kept = {
            "done": torch.tensor([self.done, self.tokens]),
            "smooth": torch.tensor([self.smooth, self.largest]),
            "losses": torch.tensor(self.losses, dtype=torch.float64).view(-1, 2),
        }
        for name, value in self.latent.items():
            kept[name] = value.detach()
            if moments := self.optimizer.state.get(value):
                kept |= {f"{name}#first": moments["exp_avg"], f"{name}#second": moments["exp_avg_sq"]}
                kept[f"{name}#step"] = moments["step"].reshape(1)
        for name, grid in self.grids.items():
            kept |= {f"{name}#scales": grid.scales, f"{name}#zeros": grid.zeros}
        return kept

    @torch.no_grad()
    def resume(self, kept: Mapping[str, Tensor] | None) -> None:
        """Go on from a kept state; None begins."""
        if kept is None:
            return
        for name, value in self.latent.items():
            value.copy_(kept[name])
            if f"{name}#first" in kept:
                self.optimizer.state[value] = {
                    "step": kept[f"{name}#step"][0],
                    "exp_avg": kept[f"{name}#first"].clone(),
                    "exp_avg_sq": kept[f"{name}#second"].clone(),
                }
            if f"{name}#scales" in kept:
                self.grids[name] = Grid(scales=kept[f"{name}#scales"], zeros=kept[f"{name}#zeros"])
        self.done, self.tokens = (int(number) for number in kept["done"])
        self.smooth, self.largest = (float(number) for number in kept["smooth"])
        if "losses" in kept:  # Work of an earlier version has none.
            self.losses = [(int(step), float(loss)) for step, loss in kept["losses"].tolist()]


def _trained(model: LlamaForCausalLM, frozen: int) -> Iterator[tuple[str, nn.Parameter]]:
    for layer in range(frozen, len(model.model.layers)):
        for name, parameter in model.model.layers[layer].named_parameters():
            yield f"model.layers.{layer}.{name}", parameter
    yield "model.norm.weight", model.model.norm.weight


def _order(lessons: Sequence[Lesson], recipe: Recipe) -> list[list[int]]:
    """Batches of all passes; lessons with and without a teacher never meet in one."""
    taught = [index for index, lesson in enumerate(lessons) if lesson.top_ids is not None]
    alone = [index for index, lesson in enumerate(lessons) if lesson.top_ids is None]
    told = [
        batch
        for turn in range(recipe.passes)
        for batch in _batched(lessons, taught, recipe, recipe.seed * 1_000 + turn)
    ]
    return _interleaved(told, _batched(lessons, alone, recipe, recipe.seed))


def _batched(lessons: Sequence[Lesson], group: Sequence[int], recipe: Recipe, seed: int) -> list[list[int]]:
    lengths = [len(lessons[index].sequence.ids) for index in group]
    return [[group[at] for at in batch] for batch in batches(lengths, tokens=recipe.batch_tokens, seed=seed)]


def _interleaved(some: list[list[int]], others: list[list[int]]) -> list[list[int]]:
    """Both lists in their order, evenly mixed."""
    places = [(at + 0.5) / len(some) for at in range(len(some))] + [
        (at + 0.5) / len(others) for at in range(len(others))
    ]
    return [batch for _, batch in sorted(zip(places, some + others, strict=True), key=lambda pair: pair[0])]


def _schedule(step: int, steps: int, last: float) -> float:
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    along = (step - WARM_UP) / max(1, steps - WARM_UP)
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * along))


def _noting(matters: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        squares = inputs[0].square().mean(dim=(0, 1))  # (in,)
        matters[name] = matters[name] + squares if name in matters else squares

    return note
