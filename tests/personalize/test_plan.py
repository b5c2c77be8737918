"""A plan is public, has one digest, and asks for the least noise that keeps its promise."""

import hashlib
import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path
from typing import Any

import pytest

from personalize.plan import Mix, NightPlan
from privacy import DpSgdRun, PrivacyError, Unit, epsilon


def test_the_digest_is_that_of_the_canonical_plan() -> None:
    plan = NightPlan()
    body = json.dumps({"format": "plan/1", **asdict(plan), "unit": "record"}, sort_keys=True, separators=(",", ":"))
    assert plan.digest() == "sha256:" + hashlib.sha256(body.encode()).hexdigest()


def test_the_digest_is_the_same_in_another_process() -> None:
    script = "from personalize.plan import NightPlan; print(NightPlan(epsilon=1.5).digest())"
    root = Path(__file__).parents[2]
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert said.stdout.strip() == NightPlan(epsilon=1.5).digest()


CHANGES: dict[str, Any] = {
    "kind": "xs",
    "epsilon": 1.0,
    "delta": 1e-6,
    "steps": 5,
    "sampling_rate": 0.5,
    "clip_norm": 1.0,
    "step_size": 0.1,
    "rehearsal_weight": 0.2,
    "rehearsal_per_step": 7,
    "max_tokens": 32,
    "head_rows": 8_192,
    "unit": Unit.DAY,
    "rehearsal_kl": 0.5,
    "mix": Mix(anchors=0.5, by_base=0.5),
}


def test_every_setting_that_may_change_is_in_the_digest() -> None:
    assert CHANGES.keys() == asdict(NightPlan()).keys()
    digests = {
        NightPlan().digest(),
        *(replace(NightPlan(), **{name: value}).digest() for name, value in CHANGES.items()),
    }
    assert len(digests) == 1 + len(CHANGES)


def test_a_plan_cannot_be_changed_once_made() -> None:
    with pytest.raises(FrozenInstanceError):
        NightPlan().epsilon = 9.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "plan",
    [
        NightPlan(),
        NightPlan(epsilon=0.5, steps=1),
        NightPlan(epsilon=4.0, delta=1e-6, steps=10),
        NightPlan(sampling_rate=0.05, steps=60),
    ],
)
def test_the_run_spends_the_plans_epsilon_and_hardly_less(plan: NightPlan) -> None:
    run = plan.run()
    assert (run.steps, run.sampling_rate, run.clip_norm) == (plan.steps, plan.sampling_rate, plan.clip_norm)
    assert 0.99 * plan.epsilon < epsilon(run, delta=plan.delta, accountant="rdp") <= plan.epsilon
    assert epsilon(run, delta=plan.delta) <= plan.epsilon
    quieter = DpSgdRun(noise_multiplier=0.99 * run.noise_multiplier, sampling_rate=run.sampling_rate, steps=run.steps)
    assert epsilon(quieter, delta=plan.delta, accountant="rdp") > plan.epsilon


@pytest.mark.parametrize("unit", list(Unit))
def test_the_unit_of_the_plan_is_the_unit_of_its_run(unit: Unit) -> None:
    assert NightPlan(unit=unit).run().unit is unit
    assert NightPlan(unit=unit).to_dict()["unit"] == unit.value


def test_a_larger_unit_is_clipped_to_the_length_that_its_mean_gradient_has() -> None:
    plan = NightPlan(clip_norm=3.0)
    assert [plan.for_unit(unit).clip_norm for unit in (Unit.RECORD, Unit.CONVERSATION, Unit.DAY)] == [3.0, 1.5, 0.75]
    assert plan.for_unit(Unit.RECORD) == plan
    assert plan.for_unit(Unit.DAY).run().noise_multiplier == plan.run().noise_multiplier


@pytest.mark.parametrize(
    "bad",
    [
        {"epsilon": 0.0},
        {"epsilon": -1.0},
        {"epsilon": float("nan")},
        {"delta": 0.0},
        {"delta": 1.0},
        {"steps": 0},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"clip_norm": 0.0},
        {"clip_norm": float("inf")},
    ],
)
def test_a_plan_that_promises_the_impossible_has_no_run(bad: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError) as refused:
        NightPlan(**bad).run()
    assert "\n" not in str(refused.value)
