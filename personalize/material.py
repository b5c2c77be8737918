"""A night's records and its public texts in, both after the frozen layers out: what training steps start from."""

from collections.abc import Callable, Sequence

from personalize import rehearsal
from personalize.forward import Prefix, encode, prefixes
from personalize.generated import top_up
from personalize.night import Base, Night
from personalize.prefix_cache import kept_prefixes
from personalize.store import Record, Store
from personalize.units import units_of
from personalize.written import WrittenTexts

__all__ = ["Progress", "public_texts", "read"]

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total): phase is `reading`, `learning` or `checking`."""


def read(
    store: Store,
    base: Base,
    night: Night,
    records: Sequence[Record],
    progress: Progress = lambda phase, done, total: None,
) -> tuple[list[Prefix], list[int] | None]:
    """Records after the frozen layers, and the unit of each; equal lengths meet, so less is padded."""
    progress("reading", 0, len(records))
    units = units_of(records, night.plan.unit)
    encoded = [
        encode(base.tokenizer, item.experience.prompt, item.experience.answer, max_tokens=night.plan.max_tokens)
        for item in records
    ]
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index].ids))
    private = []
    named = [(records[index].id, encoded[index]) for index in order]
    for prefix in kept_prefixes(store, base.model, named, cut=base.spec.cut, base_digest=base.digest):
        private.append(prefix)
        progress("reading", len(private), len(records))
    return private, None if units is None else [units[index] for index in order]


def public_texts(written: WrittenTexts, base: Base, night: Night) -> list[Prefix]:
    """Rehearsal texts after the frozen layers: a draw that depends on the seed of the night only."""
    plan = night.plan
    wanted = plan.steps * plan.rehearsal_per_step if plan.rehearsal_weight > 0 else 0
    if wanted:
        writer = night.shelf.in_use
        adapter = night.shelf.load(base_digest=base.digest)
        top_up(
            written,
            plan.mix,
            base.rehearsal,
            base.model,
            base.tokenizer,
            count=wanted,
            adapter=(writer, adapter) if writer and adapter else None,
            cut=base.spec.cut,
            seed=night.seed,
        )
    texts = rehearsal.mixed(plan.mix, base.rehearsal, written.all(), base.tokenizer, count=wanted, seed=night.seed)
    return list(prefixes(base.model, texts, cut=base.spec.cut))
