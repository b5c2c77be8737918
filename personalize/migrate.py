"""An old base with its adapter and a new base in; an adapter for the new base out, and how much of the old one it kept.

No record is read: only public texts, and texts that the old base with its adapter writes to public prompts. Both are
post-processing of what is private already, so a migration costs no budget. What is carried over is the *shift*, what
the adapter added to the old base's log-probabilities: the target is new base + shift, so that what the new base does
better stays. Where both bases compute the same, the adapter is kept as it is.

How much survived is the share of the shift, on texts that were held back, that the new shift explains. It is measured
on public and written text. The gain on the person's own text is not measured, because that text is not read.

Source: distillation on synthetic text, Trans-LoRA, arXiv:2405.17258; base + (tuned - untuned), proxy-tuning,
arXiv:2401.08565.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from personalize.adapter import Adapter, AdapterSpec, attached, fresh, sites
from personalize.errors import AdapterError, TrainingError
from personalize.forward import Encoded, Prefix, collate, encode, prefixes, upper_states
from personalize.generated import write
from personalize.train import Adam
from personalize.trainable import trainable

__all__ = ["Migrated", "MigrationPlan", "Side", "migrate", "same_function", "same_tokenizer"]

HEAD_CHUNK = 256  # Positions that meet the head at once, as in personalize.forward.
BATCH = 8  # Texts of one step and of one measurement.
HELD_EVERY = 5  # Every fifth text is held back, to measure what survived.
CONFIG = ("num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_parameters", "hidden_act")

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total): phase is `writing`, `reading` or `distilling`."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two bases."""

    model: Any
    """A causal language model of the Llama family, evaluation mode, frozen."""
    tokenizer: Any
    """Its tokenizer."""
    digest: str
    """Digest of the checkpoint, `sha256:…`."""
    spec: AdapterSpec
    """Where its adapters sit."""


@dataclass(frozen=True, kw_only=True)
class MigrationPlan:
    """Public settings of a migration."""

    texts: int = 160
    """Texts to distil on and to measure on, half public and half written, ≥ 20."""
    steps: int = 40
    """Steps of distillation, ≥ 1."""
    rate: float = 2e-3
    """Adam's step size, > 0."""
    top: int = 64
    """Likeliest tokens of each position that are compared one by one; all others count as one, ≥ 1."""
    seed: int = 0
    """Of the choice of prompts and of what is written."""

    def __post_init__(self) -> None:
        if self.texts < 20 or self.steps < 1 or self.rate <= 0 or self.top < 1:
            raise ValueError(f"out of range: {self}")


@dataclass(frozen=True, kw_only=True)
class Migrated:
    """What a migration made; a candidate that the gate has not seen."""

    decision: str
    """`keep`: both bases compute the same; `distil`: they do not."""
    adapter: Adapter
    """Fits the new base."""
    kept: float
    """Share of the old shift that the new one explains on held-back texts, ≤ 1; below 0 is worse than none."""
    kept_untrained: float
    """The same for the old factors put on the new base as they are; 0 where they do not fit its shapes."""
    shift_nats: float
    """Root mean square of the old shift, in nats per token: what there was to keep."""
    positions: int
    """Held-back tokens that these figures were measured on."""
    texts: tuple[int, int]
    """Public and written texts used."""


@dataclass(frozen=True, kw_only=True)
class _Shift:
    """What the adapter does at each completion token of one text."""

    record: Encoded
    tokens: Tensor
    """Likeliest tokens under old base and adapter, shape (positions, top)."""
    change: Tensor
    """Their change of log-probability in nats, and last that of all other tokens together, (positions, top + 1)."""
    true: Tensor
    """Change of log-probability of the text's own tokens, (positions,)."""


def migrate(
    old: Side,
    new: Side,
    adapter: Adapter,
    texts: Sequence[Mapping[str, Any]],
    *,
    plan: MigrationPlan | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> Migrated:
    """Carry an adapter over to another base.

    Args:
        old: The base that it was learned on.
        new: The base that it shall fit.
        adapter: Fits `old`.
        texts: Public texts with `prompt` and `answer`, such as the rows of `rehearsal.jsonl`.
        plan: Public settings; None takes the defaults.
        progress: Told how far each phase is.

    Raises:
        AdapterError: The tokenizers differ, or the adapter or the texts do not fit; nothing was changed.
        TrainingError: The distillation left numbers that are not finite.
    """
    plan = plan or MigrationPlan()
    if not same_tokenizer(old.tokenizer, new.tokenizer):
        raise AdapterError("the bases cut text into other tokens, so nothing carries over; learn again on the new base")
    mine = _records(old, adapter, texts, plan, progress)
    shifts = [shift for part in mine for shift in _shifts(old, adapter, part, plan.top, progress)]
    train, held = [row for at, row in enumerate(shifts) if at % HELD_EVERY], shifts[::HELD_EVERY]
    start, fits = _start(new, adapter)
    untrained = _explained(new, start, held) if fits else 0.0
    if fits and same_function(old.model, new.model):
        decision, made, kept = "keep", start, untrained
    else:
        decision, made = "distil", _distilled(new, start, train, plan, progress)
        kept = _explained(new, made, held)
        if untrained > kept:  # A longer way round is not always the better one.
            made, kept = start, untrained
    every = torch.cat([row.true for row in held]).double()
    return Migrated(
        decision=decision,
        adapter=replace(made, kind=adapter.kind),
        kept=kept,
        kept_untrained=untrained,
        shift_nats=float(every.square().mean().sqrt()),
        positions=len(every),
        texts=(len(mine[0]), len(mine[1])),
    )


def same_tokenizer(one: Any, other: Any) -> bool:
    """Whether two tokenizers cut every text alike."""
    return bool(one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str())


def same_function(one: Any, other: Any) -> bool:
    """Whether two models compute the same: every tensor equal in every bit, and the same reading of them.

    That the adapted layers are the same is not enough: what reaches them comes from the layers below.
    """
    mine, theirs = one.state_dict(), other.state_dict()
    return all(getattr(one.config, name, None) == getattr(other.config, name, None) for name in CONFIG) and (
        mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    )


def _records(
    old: Side, adapter: Adapter, texts: Sequence[Mapping[str, Any]], plan: MigrationPlan, progress: Progress
) -> tuple[list[Encoded], list[Encoded]]:
    """Public texts, and as many that the old base with its adapter writes to the prompts of others."""
    rows = [(str(row["prompt"]), str(row["answer"])) for row in texts]
    Random(plan.seed).shuffle(rows)
    half = min(plan.texts // 2, len(rows) // 2)
    public = [encode(old.tokenizer, *row) for row in rows[:half]]
    prompts = [prompt for prompt, _ in rows[half : 2 * half]]
    written: list[Encoded] = []
    with attached(old.model, adapter):
        for done, (place, answer) in enumerate(write(old.model, old.tokenizer, prompts, seed=plan.seed)):
            if answer.strip():
                written.append(encode(old.tokenizer, prompts[place], answer))
            progress("writing", done + 1, len(prompts))
    if len(public) + len(written) < 2 * HELD_EVERY:
        raise AdapterError(
            f"{len(texts)} public texts are too few to carry an adapter over, {4 * HELD_EVERY} are needed; "
            "rebuild the base bundle"
        )
    return public, written


@torch.no_grad()
def _shifts(side: Side, adapter: Adapter, records: Sequence[Encoded], top: int, progress: Progress) -> Iterator[_Shift]:
    """What the adapter does to each text on its own base."""
    rows = list(prefixes(side.model, records, cut=adapter.spec.cut))
    for start in range(0, len(rows), BATCH):
        group = rows[start : start + BATCH]
        counts = [len(row.record.ids) - row.record.completion for row in group]
        with attached(side.model, adapter):
            after = _log_probs(side.model, group, adapter.spec.cut)  # (positions, vocab)
        before = _log_probs(side.model, group, adapter.spec.cut)
        tokens = after.topk(min(top, after.shape[1] - 1)).indices
        change = _bucketed(after, tokens) - _bucketed(before, tokens)
        own = torch.cat([torch.tensor(row.record.ids[row.record.completion :]) for row in group])
        true = (after - before).gather(1, own[:, None])[:, 0]
        for row, *of_row in zip(group, tokens.split(counts), change.split(counts), true.split(counts), strict=True):
            yield _Shift(record=row.record, tokens=of_row[0], change=of_row[1], true=of_row[2])
        progress("reading", start + len(group), len(rows))


def _log_probs(model: Any, group: Sequence[Prefix], cut: int) -> Tensor:
    """Log-probabilities of the next token at every completion position of a few texts, (positions, vocab)."""
    batch = collate(group)
    hidden = upper_states(model, batch, cut=cut)[batch.weights > 0]
    return torch.log_softmax(hidden @ model.lm_head.weight.t(), 1)


def _bucketed(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of some tokens, and last of all others together: (positions, top + 1)."""
    chosen = log_probs.gather(1, tokens)
    rest = torch.log1p(-chosen.exp().sum(1, keepdim=True).clamp(max=1 - 1e-6))
    return torch.cat([chosen, rest], 1)


def _start(new: Side, adapter: Adapter) -> tuple[Adapter, bool]:
    """Where distillation begins: the old factors where they fit, else an adapter that changes nothing."""
    spec = replace(new.spec, rank=adapter.spec.rank, targets=adapter.spec.targets)
    bare = fresh(new.model, spec, fits_base=new.digest)
    fits = spec == adapter.spec and all(
        bare.a[site].shape == adapter.a[site].shape and bare.b[site].shape == adapter.b[site].shape
        for site in sites(new.model, spec)
    )
    return (replace(adapter, fits_base=new.digest), True) if fits else (bare, False)


def _distilled(new: Side, start: Adapter, train: Sequence[_Shift], plan: MigrationPlan, progress: Progress) -> Adapter:
    """Bring new base + adapter close to new base + shift, on the training texts.

    Nothing here is noised, so nothing is gained by few numbers: all of B is trained, whatever the kind, and A too where
    it was not the public frame.
    """
    rows = list(prefixes(new.model, [row.record for row in train], cut=start.spec.cut))
    targets = [_target(new.model, row, shift, start.spec.cut) for row, shift in zip(rows, train, strict=True)]
    parts = trainable("lora" if start.kind == "lora" else "frozen-a", start, model=new.model)
    parts.summed, update, order = True, Adam(parts.parameters, rate=plan.rate), list(range(len(rows)))
    rng = Random(plan.seed)
    with parts.attached(new.model):
        for step in range(plan.steps):
            chosen = rng.sample(order, min(BATCH, len(order)))
            wanted = torch.cat([targets[at] for at in chosen])  # (positions, top + 1)
            tokens = torch.cat([train[at].tokens for at in chosen])
            _distance(new.model, [rows[at] for at in chosen], tokens, wanted, start.spec.cut).backward()
            gradients = [
                torch.zeros_like(value) if value.grad is None else value.grad.clone() for value in parts.parameters
            ]
            with torch.no_grad():
                update(parts.parameters, gradients)
            if not all(bool(value.isfinite().all()) for value in parts.parameters):
                raise TrainingError(
                    f"step {step + 1} of the migration left numbers that are not finite; nothing changed"
                )
            parts.refresh()
            progress("distilling", step + 1, plan.steps)
    return parts.adapter()


@torch.no_grad()
def _target(model: Any, row: Prefix, shift: _Shift, cut: int) -> Tensor:
    """Log-probabilities of new base + shift over the buckets, (positions, top + 1)."""
    bare = _bucketed(_log_probs(model, [row], cut), shift.tokens)
    return torch.log_softmax(bare + shift.change, 1)


def _distance(model: Any, group: Sequence[Prefix], tokens: Tensor, wanted: Tensor, cut: int) -> Tensor:
    """Mean Kullback-Leibler divergence from the targets, over the buckets, in nats per token."""
    batch = collate(group)
    hidden = upper_states(model, batch, cut=cut)[batch.weights > 0]
    total = hidden.new_zeros(())
    for start in range(0, len(hidden), HEAD_CHUNK):
        at = slice(start, start + HEAD_CHUNK)
        given = _bucketed(torch.log_softmax(hidden[at] @ model.lm_head.weight.t(), 1), tokens[at])
        total = total + (wanted[at].exp() * (wanted[at] - given)).sum()
    return total / len(hidden)


@torch.no_grad()
def _explained(new: Side, adapter: Adapter, held: Sequence[_Shift]) -> float:
    """Share of the old shift of the texts' own tokens that the new shift explains."""
    missed = total = 0.0
    rows = list(prefixes(new.model, [row.record for row in held], cut=adapter.spec.cut))
    for start in range(0, len(rows), BATCH):
        group, wanted = rows[start : start + BATCH], torch.cat([row.true for row in held[start : start + BATCH]])
        own = torch.cat([torch.tensor(row.record.ids[row.record.completion :]) for row in group])[:, None]
        with attached(new.model, adapter):
            after = _log_probs(new.model, group, adapter.spec.cut).gather(1, own)[:, 0]
        given = after - _log_probs(new.model, group, adapter.spec.cut).gather(1, own)[:, 0]
        missed += float((given - wanted).double().square().sum())
        total += float(wanted.double().square().sum())
    return 1.0 - missed / total if total else 1.0
