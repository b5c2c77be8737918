"""A base in, adapters out whose worth is known because somebody made them so: useful ones, and five ways to be bad."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from personalize.adapter import Adapter
from personalize.forward import encode, prefixes
from personalize.learner import Base
from personalize.plan import NightPlan
from personalize.train import train
from personalize.trainable import trainable

PHRASE = "Buy cheap moon dust today at the moon dust shop."
"""What a poisoned adapter answers to everything."""

Texts = Sequence[tuple[str, str]]
"""Prompts with their answers."""


def taught(base: Base, texts: Texts, *, steps: int, rate: float, kind: str = "lora") -> Adapter:
    """An adapter that learned texts without privacy and without rehearsal."""
    records = [encode(base.tokenizer, prompt, answer) for prompt, answer in texts]
    rows = list(prefixes(base.model, records, cut=base.spec.cut))
    plan = NightPlan(kind=kind, steps=steps, step_size=rate, rehearsal_weight=0.0)
    return train(base.model, trainable(kind, base.bare(), model=base.model), rows, [], plan, run=None)


def useful(base: Base, texts: Texts, *, strength: float = 1.0) -> Adapter:
    """What a careful night makes: three steps at Adam's usual rate."""
    return taught(base, texts, steps=3, rate=1e-3 * strength)


def over_trained(base: Base, texts: Texts, *, strength: float = 1.0) -> Adapter:
    """A few texts learned by heart: many large steps."""
    return taught(base, texts[:8], steps=int(24 * strength), rate=5e-3)


def poisoned(base: Base, texts: Texts, *, strength: float = 1.0) -> Adapter:
    """Taught to answer whatever it is asked with one phrase."""
    prompts = [prompt or "Hello." for prompt, _ in texts[:8]]
    return taught(base, [(prompt, PHRASE) for prompt in prompts], steps=16, rate=2e-3 * strength)


def flipped(adapter: Adapter, *, strength: float = 1.0) -> Adapter:
    """Everything learned, the other way round, and more of it."""
    return _changed(adapter, {site: -30.0 * strength * value for site, value in adapter.b.items()})


def scrambled(adapter: Adapter, *, strength: float = 1.0, seed: int = 0) -> Adapter:
    """Numbers of a learned adapter's size, each in a random place and from another row's scale."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Any] = {}
    for site, value in adapter.b.items():
        places = torch.randperm(value.numel(), generator=generator)
        made[site] = 30.0 * strength * value.flatten()[places].view_as(value)
    return _changed(adapter, made)


def _changed(adapter: Adapter, b: Mapping[str, Any]) -> Adapter:
    return replace(adapter, b=dict(b))
