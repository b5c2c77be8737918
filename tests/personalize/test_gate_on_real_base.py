"""The gate on the real base: planted bad adapters are refused, harmless ones are let in whole."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from personalize.adapter import Adapter
from personalize.learner import Base
from personalize.retention import admit
from sdk.build.probes import probes, rehearsal
from sdk.device.night import base_of
from tests.planted import flipped, over_trained, poisoned, scrambled, taught, useful

pytestmark = pytest.mark.real

PER_LEG = 8  # The gate at its weakest: what it cannot miss with 8 items of a leg, it does not miss with 40.
TEXTS = [(row["prompt"], row["answer"]) for row in rehearsal() if row["id"].startswith("rehearsal-english")][:12]


@pytest.fixture(scope="module")
def base(base_bundle: Any) -> Base:
    return replace(base_of(base_bundle), probes=probes(), probes_per_leg=PER_LEG)


@pytest.fixture(scope="module")
def learned(base: Base) -> Adapter:
    return useful(base, TEXTS)


def alpha_of(base: Base, candidate: Adapter) -> float:
    bare = base.bare()
    return admit(base.model, current=bare, candidate=candidate, base=bare, probes=base.gate())[0].alpha


BAD: dict[str, Callable[[Base, Adapter], Adapter]] = {
    "scrambled": lambda base, learned: scrambled(learned, strength=20.0),
    "sign-flipped": lambda base, learned: flipped(learned, strength=10.0),
    "poisoned towards one phrase": lambda base, learned: poisoned(base, TEXTS, strength=5.0),
    "over-trained": lambda base, learned: over_trained(base, TEXTS),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_planted_bad_adapter_is_refused(kind: str, base: Base, learned: Adapter) -> None:
    assert alpha_of(base, BAD[kind](base, learned)) == 0.0


def test_the_identity_and_a_small_useful_adapter_are_let_in_whole(base: Base) -> None:
    assert alpha_of(base, base.bare()) == 1.0
    assert alpha_of(base, useful(base, TEXTS, strength=0.3)) == 1.0


def test_a_small_domain_adapter_is_let_in_whole(base: Base) -> None:
    assert alpha_of(base, taught(base, TEXTS, steps=6, rate=2e-4, kind="frozen-a")) == 1.0
