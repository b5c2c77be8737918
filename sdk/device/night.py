"""A bundle in, what a night of learning needs of it out; and the plan of a night."""

from dataclasses import replace
from pathlib import Path

from personalize.adapter import AdapterSpec
from personalize.choice import chosen_kind
from personalize.errors import TrainingError
from personalize.learner import Base
from personalize.pack import DomainPack
from personalize.plan import NightPlan, clip_norm_of
from personalize.trainable import KINDS
from sdk.bundle import Bundle
from sdk.device.extras import Extras
from sdk.device.runtime import Runtime

__all__ = ["ADAPTED_LAYERS", "base_of", "plan_of"]

ADAPTED_LAYERS = 4  # The upper ones: all below are computed once a night (docs/benchmarks.md).
RATES = {"xs": 5e-3, "frozen-a": 1e-3, "lora": 1e-3}  # Adam's rate of each kind, from public text only.
STEPS, CLIP_NORM = 8, 2.0  # Of a night without directions.
ASSUMED_RECORDS = 100  # Where the number of records is not public.


def base_of(
    bundle: Bundle,
    *,
    runtime: Runtime | None = None,
    probes_per_leg: int | None = None,
    pack: str | None = None,
    home: Path | None = None,
) -> Base:
    """What learning needs of a bundle.

    Args:
        bundle: The base model.
        runtime: The same bundle, loaded already; None loads it.
        probes_per_leg: Probe items used of each leg; None takes all.
        pack: Kind of text whose public domain adapter and directions a night begins with; None takes the only one that
            was installed, else the only one of the bundle, or none where there are several or none.
        home: Folder of the home whose installed packs and probes count too; an installed pack goes before one of the
            bundle with its name, installed probes are asked beside those of the bundle, so they never weaken the gate.

    Raises:
        BundleError: It cannot be loaded.
        SlotError: An installed extra is damaged.
        TrainingError: There is no such pack.
    """
    runtime = runtime or Runtime.open(bundle)
    layers = len(runtime.model.model.layers)
    extras = Extras(home) if home else None
    base = Base(
        model=runtime.model,
        tokenizer=runtime.tokenizer,
        digest=bundle.base_digest,
        probes=[*bundle.probes(), *(extras.probes(bundle.base_digest) if extras else [])],
        rehearsal=bundle.rehearsal(),
        spec=AdapterSpec(layers=tuple(range(max(1, layers - ADAPTED_LAYERS), layers))),
        probes_per_leg=probes_per_leg,
    )
    installed = extras.packs(bundle.base_digest) if extras else {}
    packs = bundle.packs() | installed
    if pack is not None and pack not in packs:
        known = ", ".join(sorted(packs)) or "none; `limbeck build basis` makes one"
        raise TrainingError(f"the base knows no text of kind {pack!r}; it has {known}")
    alone = next((next(iter(some)) for some in (installed, packs) if len(some) == 1), None)
    chosen = pack or alone
    if chosen is None:
        return base
    taught = DomainPack.load(packs[chosen], base_digest=bundle.base_digest)
    return replace(base, start=taught.start, basis=taught.basis)


def plan_of(
    base: Base | None = None,
    *,
    kind: str | None = None,
    epsilon: float = 2.0,
    delta: float = 1e-5,
    steps: int | None = None,
    records: int | None = None,
) -> NightPlan:
    """The plan of a night; everything in it is public.

    Args:
        base: What the night begins with; without it, or where it has no directions, `basis` cannot be chosen.
        kind: Adapter kind; None takes the one that gained most in the bench for so many records at this epsilon.
        epsilon: Of the night, in nats.
        delta: Probability.
        steps: None takes the kind's own.
        records: Records that the night will have, where their number is public (Learner.public_count), to choose the
            kind by; None assumes a public constant.
    """
    directions = len(base.basis) if base is not None and base.basis is not None else 0
    if kind is None:
        available = [known for known in KINDS if known != "basis" or directions]
        kind = chosen_kind(
            records=ASSUMED_RECORDS if records is None else records, epsilon=epsilon, available=available
        )
    plan = NightPlan(kind=kind, epsilon=epsilon, delta=delta)
    if kind == "basis":
        return replace(plan, steps=steps or plan.steps, clip_norm=clip_norm_of(directions or 1))
    return replace(plan, steps=steps or STEPS, clip_norm=CLIP_NORM, step_size=RATES[kind])
