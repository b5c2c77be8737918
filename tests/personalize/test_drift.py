"""Admitted adapters in, how far they moved out: figures as plain matrices give them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from personalize.adapter import Adapter
from personalize.drift import distance, drift, norm
from personalize.plan import Mix
from tests.nights import PLAN, one_day, opened_learner, tiny_base, warm_adapter

BASE = tiny_base()
ONE, OTHER, THIRD = (warm_adapter(BASE.model, size=size, seed=seed) for size, seed in ((0.1, 1), (0.2, 2), (0.1, 3)))


def flat(adapter: Adapter) -> torch.Tensor:
    """All B A as one vector."""
    return torch.cat([(adapter.b[site].double() @ adapter.a[site].double()).flatten() for site in adapter.b])


def label(**upper: float) -> dict[str, Any]:
    legs = [{"leg": leg, "drop": value - 0.01, "upper": value, "margin": 0.05} for leg, value in upper.items()]
    return {"night": {"retention": legs}}


def test_norms_and_distances_are_those_of_the_whole_matrices() -> None:
    assert norm(ONE) == pytest.approx(flat(ONE).norm().item(), rel=1e-9)
    assert distance(ONE, OTHER) == pytest.approx((flat(ONE) - flat(OTHER)).norm().item(), rel=1e-9)
    assert distance(ONE, None) == norm(ONE)
    assert distance(ONE, ONE) == pytest.approx(0.0, abs=1e-6)


def test_factors_that_make_the_same_matrix_are_at_distance_zero() -> None:
    turned = replace(
        ONE, a={site: 2 * value for site, value in ONE.a.items()}, b={site: value / 2 for site, value in ONE.b.items()}
    )
    assert distance(ONE, turned) == pytest.approx(0.0, abs=1e-6)


def test_each_step_is_compared_with_the_one_before() -> None:
    found = drift([("n1", ONE, None), ("n2", OTHER, None), ("n3", THIRD, None)])
    assert [step.name for step in found.steps] == ["n1", "n2", "n3"]
    assert [step.distance for step in found.steps] == [norm(ONE), distance(OTHER, ONE), distance(THIRD, OTHER)]
    assert [step.cosine for step in found.steps[:2]] == [None, None]
    first, second = flat(OTHER) - flat(ONE), flat(THIRD) - flat(OTHER)
    wanted = torch.nn.functional.cosine_similarity(first, second, dim=0).item()
    assert found.steps[2].cosine == pytest.approx(wanted, rel=1e-6)


def test_going_on_is_near_one_and_turning_back_is_minus_one() -> None:
    bare = BASE.bare()
    on = drift([("n1", bare, None), ("n2", bare.toward(ONE, 0.5), None), ("n3", ONE, None)]).steps[-1].cosine
    back = drift([("n1", ONE, None), ("n2", OTHER, None), ("n3", ONE, None)]).steps[-1].cosine
    assert on == pytest.approx(1.0, abs=1e-5)
    assert back == pytest.approx(-1.0, abs=1e-5)


def test_nothing_that_moved_has_no_direction() -> None:
    assert drift([("n", BASE.bare(), None)] * 3).steps[-1].cosine is None


def test_the_newest_gate_says_how_much_of_each_margin_is_used() -> None:
    found = drift([("n1", ONE, label(english=0.04)), ("n2", OTHER, label(english=0.01, facts=-0.02))])
    assert found.nearest == {"english": pytest.approx(0.2), "facts": 0.0}
    assert found.steps[0].drops == {"english": pytest.approx(0.03)}


def test_no_nights_is_no_drift_and_everything_is_plain_values() -> None:
    assert drift([], records={"2026-11-20": 24}).to_dict() == {
        "records": {"2026-11-20": 24},
        "steps": (),
        "nearest": {},
    }


def test_a_home_reports_the_drift_of_its_nights_from_public_figures_and_writes_what_its_mix_asks_for(
    tmp_path: Path,
) -> None:
    learner = opened_learner(tmp_path / "home", BASE)
    mixed = replace(PLAN, mix=Mix(anchors=0.5, by_base=0.25, by_adapter=0.25))
    assert learner.status()["drift"] == {"records": {}, "steps": (), "nearest": {}}
    names = []
    for day in ("2026-11-20", "2026-11-21"):
        learner.remember(one_day(day))
        names.append(learner.learn(mixed).adapter)
    found = learner.status()["drift"]
    learner.close()
    assert [step["name"] for step in found["steps"]] == names
    assert found["records"] == {"2026-11-20": 24, "2026-11-21": 24}
    assert found["nearest"].keys() == {"english", "grammar"}
    assert found["steps"][0]["distance"] == found["steps"][0]["norm"] > 0
    assert {text.writer for text in learner.written.all()} <= {"base", names[0]}
    assert "cat" not in json.dumps(found)
