"""A charged look at held-out records: who is held out, what it costs, what it refuses, and that it happens once."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from personalize import gain, retention
from personalize import learner as module
from personalize.adapter import Adapter
from personalize.errors import NightStoppedError, TrainingError
from personalize.experience import Experience
from personalize.learner import LIFETIME, Learner
from personalize.retention import AdmittedAdapter, Verdict
from privacy import Unit, epsilon
from tests.nights import PLAN, after_frozen_layers, one_day, opened_learner, random_records, tiny_base, warm_adapter

BASE, KEY = tiny_base(), bytes(range(32))


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Learner]:
    opened = opened_learner(tmp_path / "home", BASE)
    opened.remember(many())
    yield opened
    opened.close()


def many() -> list[Experience]:
    return [item for day in ("2026-11-20", "2026-11-21", "2026-11-22") for item in one_day(day, count=40)]


@pytest.fixture
def noiseless(monkeypatch: pytest.MonkeyPatch) -> None:
    from privacy import gate

    def quiet(scores: Any, *, bound: float, ledger: Any, receipt: Any) -> float:
        ledger.draw(receipt)
        return gate.released_mean(
            scores, bound=bound, noise_multiplier=gain.NOISE, gaussian=lambda shape: torch.zeros(shape)
        )

    monkeypatch.setattr(module, "charged_mean", quiet)


def reserved(learner: Learner) -> list[dict[str, Any]]:
    return [entry.facts() | {"caller": entry.caller} for entry in learner.ledger.entries() if entry.kind == "reserve"]


def test_a_gain_check_is_charged_before_the_night_to_the_same_blocks(learner: Learner) -> None:
    report = learner.learn(PLAN, gain_check=True)
    night, look = reserved(learner)
    assert (look["caller"], look["run"]["event"]) == ("gate", "gate_release/1")
    assert look["blocks"] == night["blocks"] == list(report.blocks)
    spent = epsilon([gain.event(Unit.RECORD), PLAN.run()], delta=1e-5, accountant="rdp")
    assert learner.ledger.spent() == pytest.approx(spent)
    assert report.epsilon < spent < report.epsilon + 0.2
    assert spent <= LIFETIME.epsilon
    assert report.gain is not None
    assert report.records + report.gain.units == 120
    assert report.gain.noise_std == pytest.approx(gain.NOISE * gain.BOUND / report.gain.units)
    assert report.to_dict()["gain"]["units"] == report.gain.units
    assert list(learner.store.fresh()) == [], "what was looked at is not fresh any more"
    assert learner.ledger.open_receipts() == []


def test_without_being_asked_nothing_is_held_out_or_charged(learner: Learner) -> None:
    report = learner.learn(PLAN)
    assert (report.gain, report.records, len(reserved(learner))) == (None, 120, 1)


def test_where_the_night_leaves_too_little_for_a_look_all_is_learned(learner: Learner) -> None:
    report = learner.learn(replace(PLAN, epsilon=3.99), gain_check=True)
    assert (report.gain, report.records, len(reserved(learner))) == (None, 120, 1)


def test_too_few_records_are_refused_before_anything_is_charged(tmp_path: Path) -> None:
    few = opened_learner(tmp_path / "few", BASE)
    few.remember(one_day(count=22))
    with pytest.raises(TrainingError, match="a gain check would leave"):
        few.learn(PLAN, gain_check=True)
    assert reserved(few) == []
    few.close()


def test_who_is_held_out_depends_on_key_and_id_only(learner: Learner) -> None:
    records = list(learner.store.all())
    learned, held = gain.held_out(records, Unit.RECORD, KEY)
    assert sorted(item.id for item in (*learned, *held)) == sorted(item.id for item in records)
    other = [replace(item, experience=replace(item.experience, answer="other words")) for item in records]
    assert [item.id for item in gain.held_out(other, Unit.RECORD, KEY)[1]] == [item.id for item in held]
    assert [item.id for item in gain.held_out(records, Unit.RECORD, bytes(32))[1]] != [item.id for item in held]
    many_held = [gain._coin(f"{number:032x}", KEY) < gain.SHARE for number in range(20_000)]
    assert sum(many_held) / 20_000 == pytest.approx(gain.SHARE, abs=0.015)


def test_a_unit_is_held_out_as_a_whole(learner: Learner) -> None:
    records = [
        replace(item, experience=replace(item.experience, contact=f"person {number // 4}"))
        for number, item in enumerate(learner.store.all())
    ]
    learned, held = gain.held_out(records, Unit.CONVERSATION, KEY)
    assert held
    contacts = [{item.experience.contact for item in part} for part in (learned, held)]
    together = {(item.block, item.experience.contact) for item in learned}
    assert not together & {(item.block, item.experience.contact) for item in held}
    assert contacts[0]


def test_scores_are_the_nats_a_token_that_the_change_saves() -> None:
    records = after_frozen_layers(BASE.model, random_records((5, 9, 3)))
    before, after = BASE.bare(), warm_adapter(BASE.model, size=0.05)
    found = gain.scores(BASE.model, records, None, before=before, after=after)
    again = gain.scores(BASE.model, records, None, before=after, after=before)
    assert found == pytest.approx([-value for value in again])
    together = gain.scores(BASE.model, records, [7, 7, 3], before=before, after=after)
    assert together == pytest.approx([(found[0] + found[1]) / 2, found[2]])


@pytest.mark.usefixtures("noiseless")
def test_a_candidate_that_is_surely_worse_is_refused(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The public gate is made to admit an adapter that has forgotten how to speak."""

    def careless(model: Any, *, candidate: Adapter, **more: Any) -> Any:
        verdict = Verdict(alpha=1.0, legs=())
        ruined = warm_adapter(BASE.model, size=2.0)
        return verdict, AdmittedAdapter(ruined, verdict, proof=retention._PROOF)

    monkeypatch.setattr(retention, "admit", careless)
    report = learner.learn(PLAN, gain_check=True)
    assert report.gain is not None
    assert report.gain.harmful
    assert not report.verdict.admitted
    assert learner.shelf.in_use is None
    assert report.summary().startswith("rejected: it predicts what you wrote surely worse")
    assert learner.ledger.entries()[-1].facts()["outcome"] == "rejected"


def test_the_look_happens_once_however_often_the_night_is_stopped(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases: list[str] = []
    with pytest.raises(NightStoppedError):
        learner.learn(
            PLAN, gain_check=True, stop=lambda: any(entry.kind == "draw" for entry in learner.ledger.entries())
        )
    promote = Learner._promote

    def die(self: Learner, *args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "_promote", die)
    with pytest.raises(KeyboardInterrupt):
        learner.learn(PLAN)
    monkeypatch.setattr(Learner, "_promote", promote)
    report = learner.learn(PLAN, progress=lambda phase, done, total: phases.append(phase))
    assert report.resumed
    assert report.gain is None, "the one look that was paid for was used by the night that was killed"
    assert len(reserved(learner)) == 2
    assert learner.ledger.open_receipts() == []


def test_a_look_without_a_draw_is_caught(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    def free(scores: Any, *, bound: float, ledger: Any, receipt: Any) -> float:
        return float(sum(scores) / len(scores))

    monkeypatch.setattr(module, "charged_mean", free)
    assert learner.learn(PLAN, gain_check=True).gain is not None
    look = next(entry.receipt for entry in learner.ledger.entries() if entry.caller == "gate")
    drawn = [entry for entry in learner.ledger.entries() if entry.kind == "draw" and entry.receipt == look]
    with pytest.raises(AssertionError):
        assert drawn, "a look that was never drawn"
