"""Nothing in, the pieces of a night on the tiny Llama out: adapters, directions, records, a home that can learn."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch

from personalize.adapter import Adapter, AdapterSpec, fresh
from personalize.experience import Experience
from personalize.forward import Encoded, Prefix, encode, prefixes
from personalize.home import Home
from personalize.learner import Base, Learner
from personalize.plan import NightPlan
from personalize.trainable import Basis
from tests.tiny import SENTENCES, VOCABULARY, tiny_model, tiny_tokenizer

DIGEST = "sha256:" + "5" * 64
"""Of a base that exists in memory only."""

SPEC = AdapterSpec(layers=(2, 3), rank=3)
"""All seven maps of the upper two of four layers."""

UNEQUAL_LENGTHS = (40, 2, 3, 2, 9, 2, 3, 25, 2, 2)
"""Completion tokens of records: one that could outshout all others, and some that are all but nothing."""

PLAN = NightPlan(kind="xs", steps=2, step_size=1e-3, rehearsal_per_step=4)
"""A small, careful night: it passes the gate of the tiny base."""

RECKLESS = NightPlan(kind="lora", steps=2, step_size=5.0, rehearsal_per_step=4)
"""A night whose candidate has forgotten everything."""


@cache
def taught_model() -> Any:
    """The tiny Llama after a short school on SENTENCES, frozen: it has something to forget."""
    model, tokenizer = tiny_model(), tiny_tokenizer()
    lessons = [torch.tensor([encode(tokenizer, "say", text).ids]) for text in SENTENCES]  # each (1, seq)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(120):
        optimizer.zero_grad()
        model(input_ids=lessons[step % 4], labels=lessons[step % 4]).loss.backward()
        optimizer.step()
    return model.requires_grad_(False)


def warm_adapter(model: Any, spec: AdapterSpec = SPEC, *, size: float = 0.3, seed: int = 1) -> Adapter:
    """An adapter with B away from zero, so that every gradient of every kind is there."""
    adapter, generator = fresh(model, spec, fits_base=DIGEST), torch.Generator().manual_seed(seed)
    for value in adapter.b.values():
        value.copy_(size * torch.randn(value.shape, generator=generator))
    return adapter


def some_basis(adapter: Adapter, *, count: int = 5, seed: int = 2) -> Basis:
    """Random directions for B."""
    generator = torch.Generator().manual_seed(seed)
    directions = {
        site: 0.1 * torch.randn(count, *value.shape, generator=generator).to(value.dtype)
        for site, value in adapter.b.items()
    }
    return Basis(directions=directions, variance=torch.linspace(0.5, 0.05, count))


def random_records(lengths: Sequence[int] = UNEQUAL_LENGTHS, *, prompt: int = 3, seed: int = 3) -> list[Encoded]:
    """Records of random tokens: so many completion tokens each, after a prompt."""
    rng = Random(seed)
    return [
        Encoded(
            ids=tuple(rng.randrange(3, VOCABULARY) for _ in range(prompt + length)),
            completion=prompt,
            characters=length,
        )
        for length in lengths
    ]


def after_frozen_layers(model: Any, records: Sequence[Encoded], spec: AdapterSpec = SPEC) -> list[Prefix]:
    """What a night holds of records."""
    return list(prefixes(model, records, cut=spec.cut))


def one_day(label: str = "2026-11-20", count: int = 24) -> list[Experience]:
    """What a person may have taught on one UTC day, from midnight on, every half hour."""
    first = datetime.fromisoformat(f"{label}T00:00:00+00:00")
    return [
        Experience(
            prompt=SENTENCES[index % 4][: 5 + index % 9],
            answer=f"{SENTENCES[index % 3]} {index}"[index % 7 :],
            at=first + timedelta(minutes=30 * index),
        )
        for index in range(count)
    ]


def tiny_base(*, model: Any = None, probes_each: int = 16) -> Base:
    """A base that fits the tests' plans: two legs of probes, both kinds, and public texts."""
    model = model or taught_model()
    words = [text.split() for text in SENTENCES]
    loss = [
        {"format": "probe/1", "id": f"l{row}", "leg": "english", "kind": "loss", "prompt": "say", "answer": text}
        for row, text in enumerate(" ".join(words[row % 4][row // 4 :]) for row in range(probes_each))
    ]
    pair = [
        {
            "format": "probe/1",
            "id": f"p{row}",
            "leg": "grammar",
            "kind": "pair",
            "prompt": "say",
            "good": good,
            "bad": bad,
        }
        for row in range(probes_each)
        for good, bad in [(SENTENCES[row % 4], " ".join(_swapped(words[row % 4], row // 4)))]
    ]
    texts = [
        {"format": "rehearsal/1", "id": f"r{row}", "prompt": "say", "answer": text}
        for row, text in enumerate(SENTENCES)
    ]
    start = fresh(model, SPEC, fits_base=DIGEST)
    return Base(
        model=model,
        tokenizer=tiny_tokenizer(),
        digest=DIGEST,
        probes=[*loss, *pair],
        rehearsal=texts,
        spec=SPEC,
        basis=some_basis(start),
    )


def opened_learner(folder: Path, base: Base | None = None) -> Learner:
    """A learner in the home at `folder`, with what the home remembers."""
    return Learner(Home.open(folder), base)


def _swapped(words: Sequence[str], place: int) -> list[str]:
    return [*words[:place], words[place + 1], words[place], *words[place + 2 :]]
