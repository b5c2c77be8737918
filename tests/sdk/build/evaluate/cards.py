"""Small scorecards with known figures."""

import random
from typing import Any

from sdk.build.evaluate.card import Leg, Scorecard

__all__ = ["card", "shares"]


def shares(right: int, count: int, *, key: str = "sha256:1", score: str = "accuracy", more: str = "") -> Leg:
    """A leg whose first items are right; `more` names another score with the same items."""
    tops, ones = (1.0,) * right + (0.0,) * (count - right), (1.0,) * count
    scores = {score: (tops, ones)} | ({more: (tops, ones)} if more else {})
    names = tuple(f"item-{place}" for place in range(count))
    return Leg(ids=names, groups=tuple(f"kind_{place % 3}" for place in range(count)), scores=scores, key=key)


def card(name: str = "student", *, seed: int = 0, right: int = 80, **changes: Any) -> Scorecard:
    """A card as a real run makes it: text, two sets of pairs, requests, cost and energy; the teacher did not run."""
    draw = random.Random(seed)
    bits = tuple(draw.gauss(1200, 60) for _ in range(40))
    legs: dict[str, Leg] = {
        "text": Leg(
            ids=tuple(f"passage-{place}" for place in range(40)),
            groups=("text",) * 40,
            scores={"bits_per_byte": (bits, (1000.0,) * 40)},
            key="sha256:2",
        ),
        "teacher": Leg(reason="no teacher; name one with --teacher"),
        "snips": shares(right, 100, score="exact", more="named"),
        "blimp": shares(right, 100),
        "piqa": shares(60, 100),
        "cost": Leg(
            samples={"answer_ms": (2000.0, 2100.0, 1900.0), "first_token_ms": (210.0, 220.0, 230.0)},
            facts={"size_megabytes": 59.2, "peak_megabytes": 700.0, "parameters_millions": 94.4, "engine": "torch"},
            key="sha256:3",
        ),
        "energy": Leg(facts={"joules": 0.5, "joules_float16": 1.0}, key="sha256:4"),
        **changes,
    }
    model = {"name": name, "digest": f"sha256:{seed:064d}", "parameters": 94_400_000}
    return Scorecard(model=model, quick=False, legs=legs)
