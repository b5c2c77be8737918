"""The audit passes a sound engine, and notices each safeguard that is taken out of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from privacy import DpSgdRun, PrivacyError, epsilon
from privacy.audit import ALARM, AuditReport, Engine, Finding, audit, charges, default_run, mechanism, randomness
from privacy.audit.canaries import train_with_canaries
from privacy.audit.legs import mechanism_checks
from privacy.dp_sgd import DpSgd
from privacy.errors import AuditError, EngineError
from privacy.events import Neighbours, Unit
from privacy.ledger import Ledger
from tests.privacy.ledgers import opened
from tests.privacy.mutants import MUTANTS, REQUIRED, Mutant

STRICT = DpSgdRun(noise_multiplier=1.0, sampling_rate=1.0, steps=1)
"""One noisy sum at separation 1: epsilon 4.38 (exact) and 4.73 (RDP) at delta 1e-5."""


def check_of(leg: str) -> Callable[[Path, Engine], tuple[Finding, ...]]:
    """The function that makes the finding `leg`."""
    steps: dict[str, Callable[[Engine], Any]] = {
        "clip invariant": mechanism.clip_invariant,
        "neighbour sensitivity": mechanism.neighbour_sensitivity,
        "unit sensitivity": mechanism.unit_sensitivity,
        "microbatches": mechanism.microbatches_add_up,
        "public divisor": mechanism.public_divisor,
        "limited steps": mechanism.limited_steps,
        "noise size": randomness.noise_findings,
        "noise shape": randomness.noise_findings,
        "noise freshness": randomness.noise_findings,
        "noise secrecy": randomness.noise_secrecy,
        "sampler rate": randomness.sampler_rate,
        "sampler independence": randomness.sampler_independence,
        "sampler units": randomness.sampler_units,
        "sampler secrecy": randomness.sampler_secrecy,
    }
    sums: dict[str, Callable[[Path, Engine], Any]] = {
        "composition": charges.composition,
        "no refund": charges.charges_kept,
        "independent sum": charges.independent_sum,
        "limits": charges.limits_hold,
    }

    def check(folder: Path, engine: Engine) -> tuple[Finding, ...]:
        found = steps[leg](engine) if leg in steps else sums[leg](folder, engine)
        return found if isinstance(found, tuple) else (found,)

    return check


@pytest.fixture(scope="module")
def healthy() -> AuditReport:
    """The real engine, through every leg."""
    return audit(canaries=1_000)


def test_the_real_engine_passes_every_leg(healthy: AuditReport) -> None:
    assert healthy.failed == ()
    assert healthy.passed
    legs = [finding.leg for finding in healthy.findings]
    assert len(legs) == len(set(legs)) == 22
    assert {leg for _, leg in MUTANTS.values()} <= set(legs)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught_by_its_leg(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant, leg = MUTANTS[name]
    found = {finding.leg: finding for finding in check_of(leg)(tmp_path, mutant(monkeypatch))}
    assert not found[leg].passed, found[leg].measured


@pytest.mark.parametrize("name", REQUIRED)
def test_the_whole_audit_fails_with_a_mutant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant, leg = REQUIRED[name]
    report = audit(canaries=0, engine=mutant(monkeypatch))
    assert not report.passed
    assert leg in report.failed


def test_the_legs_see_no_more_than_they_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger mutant does not disturb the checks of a step, nor the other way round."""
    report = audit(canaries=0, engine=REQUIRED["pooled loss"][0](monkeypatch))
    assert set(report.failed) == {"neighbour sensitivity", "unit sensitivity", "microbatches"}


# --- one training with canaries --------------------------------------------------------------------------------------


def trained(run: DpSgdRun, engine: Engine, *, canaries: int = 1_000) -> AuditReport:
    return audit(run, canaries=canaries, engine=engine)


@pytest.mark.parametrize("name", ["half sigma", "no noise", "clip times five"])
def test_canaries_alone_refute_a_mutant_that_leaks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if nobody had looked at the mechanism: the attack on one real training gives it away."""
    honest = trained(STRICT, Engine()).canaries
    report = trained(STRICT, REQUIRED[name][0](monkeypatch))
    assert "membership inference" in report.failed
    assert honest is not None
    assert report.canaries is not None
    assert report.canaries.lower_bound() > honest.lower_bound()


def test_a_training_without_noise_is_refuted_up_to_what_the_canaries_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    report = trained(STRICT, REQUIRED["no noise"][0](monkeypatch), canaries=5_000)
    assert report.canaries is not None
    assert report.membership is not None
    assert report.canaries.correct == report.canaries.guesses == 1_000
    assert report.canaries.epsilon_at_least == report.canaries.largest_provable_epsilon
    assert report.canaries.epsilon_at_least == pytest.approx(5.67, abs=0.01)  # Known cap of 5,000 canaries.
    assert report.canaries.gaussian_epsilon_at_least == report.canaries.largest_provable_gaussian_epsilon
    assert "one-run canaries" in report.failed
    assert report.membership.auc == 1


def test_the_bounds_stay_below_what_was_charged(healthy: AuditReport) -> None:
    assert healthy.canaries is not None
    assert 0 < healthy.canaries.lower_bound() < healthy.canaries.claimed_epsilon < 4
    assert healthy.canaries.claimed_epsilon == epsilon(default_run(), delta=1e-5, accountant="rdp")
    assert healthy.canaries.lower_bound() < healthy.canaries.largest_provable_epsilon


def test_a_sampled_run_is_audited_without_the_gaussian_bound() -> None:
    report = trained(DpSgdRun(noise_multiplier=2.0, sampling_rate=0.1, steps=20), Engine(), canaries=200)
    assert report.passed
    assert report.canaries is not None
    assert report.canaries.gaussian_epsilon_at_least is None
    assert report.canaries.largest_provable_gaussian_epsilon is None


def test_a_run_for_larger_units_is_audited_with_a_canary_for_each_unit() -> None:
    report = trained(replace(STRICT, unit=Unit.DAY), Engine(), canaries=200)
    assert report.passed
    assert report.run["unit"] == "day"


def test_an_audit_that_sees_nothing_says_so() -> None:
    """Canaries that training never reads would pass every test of privacy."""

    class Blind(DpSgd):
        def step(self, losses_of: Any, *, microbatch: int = 16) -> list[torch.Tensor]:
            return super().step(lambda indices: 0.0 * losses_of(indices), microbatch=microbatch)

    report = trained(STRICT, Engine(step=Blind), canaries=500)
    assert "audit sees" in report.failed
    assert "membership inference" not in report.failed


def test_an_attack_turned_round_is_an_attack() -> None:
    class Backwards(DpSgd):
        def step(self, losses_of: Any, *, microbatch: int = 16) -> list[torch.Tensor]:
            return [-20 * part for part in super().step(losses_of, microbatch=microbatch)]

        def _privatise(self, sums: list[torch.Tensor]) -> list[torch.Tensor]:
            return [total / self.expected_batch for total in sums]

    assert "membership inference" in trained(STRICT, Engine(step=Backwards), canaries=200).failed


def test_the_training_is_charged_drawn_and_real(tmp_path: Path) -> None:
    run = DpSgdRun(noise_multiplier=0.5, sampling_rate=1.0, steps=6)
    with opened(tmp_path, epsilon=100.0) as ledger:
        seen = train_with_canaries(run, canaries=400, ledger=ledger)
        kinds = [entry.kind for entry in ledger.entries()]
        assert kinds == ["genesis", "budget", "reserve", *["draw"] * 6, "close"]
        assert seen.charged == ledger.spent() == epsilon(run, delta=1e-5, accountant="rdp")
        assert ledger.open_receipts() == []
    assert seen.loss[1] < 0.9 * seen.loss[0]
    assert seen.loss[0] == pytest.approx(np.log(2))
    separation = run.steps**0.5 / run.noise_multiplier
    gap = seen.scores[seen.included].mean() - seen.scores[~seen.included].mean()
    assert gap == pytest.approx(separation, abs=6 * 2 / 400**0.5)  # A canary is moved by exactly the separation.
    assert seen.scores[~seen.included].std() == pytest.approx(1, abs=6 / 400**0.5)


def test_a_charge_that_does_not_fit_the_training_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = Ledger.spent
    monkeypatch.setattr(Ledger, "spent", lambda self, *rest, **more: 0.9 * spent(self, *rest, **more))
    assert "charged training" in trained(STRICT, Engine(), canaries=100).failed


# --- the audit itself ------------------------------------------------------------------------------------------------


def test_progress_is_told_and_ends_at_the_end() -> None:
    told: list[tuple[str, int, int]] = []
    audit(canaries=0, progress=lambda what, done, total: told.append((what, done, total)))
    assert [done for _, done, _ in told] == list(range(1, told[-1][2] + 1))
    assert {total for _, _, total in told} == {told[-1][1]}


def test_a_part_that_breaks_down_has_failed_and_the_others_are_still_checked() -> None:
    def broken(*arguments: Any, **more: Any) -> DpSgd:
        raise EngineError("no engine today")

    found = mechanism_checks(Engine(step=broken))
    assert [finding.leg for finding in found if finding.passed] == [
        "composition",
        "no refund",
        "independent sum",
        "limits",
    ]
    assert "it broke down: no engine today" in found[0].measured


@pytest.mark.parametrize("canaries", [-1, 1, 49, 10**9])
def test_an_impossible_number_of_canaries_is_refused(canaries: int) -> None:
    with pytest.raises(AuditError, match=r"^canaries must be 0 or in \[50, 20000\], got"):
        audit(canaries=canaries)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_an_impossible_confidence_or_delta_is_refused(share: float) -> None:
    with pytest.raises(AuditError, match="must be in"):
        audit(confidence=share)
    with pytest.raises(AuditError, match="must be in"):
        audit(delta=share)


def test_a_run_of_another_relation_is_refused() -> None:
    run = DpSgdRun(noise_multiplier=2.0, sampling_rate=1.0, steps=2, neighbours=Neighbours.REPLACE)
    with pytest.raises(AuditError, match="zero_out"):
        audit(run)


def test_a_report_survives_json(healthy: AuditReport) -> None:
    written = json.loads(json.dumps(healthy.to_dict()))
    assert AuditReport.from_dict(written) == healthy
    assert written["passed"] is True
    quick = audit(canaries=0)
    assert AuditReport.from_dict(json.loads(json.dumps(quick.to_dict()))) == quick


@pytest.mark.parametrize(
    "damage",
    [
        lambda written: written.update(format="audit/2"),
        lambda written: written.pop("findings"),
        lambda written: written.update(findings=None),
        lambda written: written["findings"][0].update(passed="yes"),
        lambda written: written["findings"][0].update(more=1),
        lambda written: written["canaries"].update(epsilon_at_least="1"),
        lambda written: written["membership"].pop("auc"),
        lambda written: written.update(at=7),
        lambda written: written.update(more=1),
    ],
)
def test_a_damaged_record_of_an_audit_is_refused(healthy: AuditReport, damage: Callable[[Any], Any]) -> None:
    written = json.loads(json.dumps(healthy.to_dict()))
    damage(written)
    with pytest.raises(AuditError, match="run the audit again"):
        AuditReport.from_dict(written)


def test_what_is_no_record_at_all_is_refused() -> None:
    nothing: tuple[Any, ...] = (None, [], "audit", 7)
    for written in nothing:
        with pytest.raises(PrivacyError, match="no audit of format"):
            AuditReport.from_dict(written)


def test_a_sound_engine_is_not_accused_in_many_repetitions() -> None:
    """80 statistical checks: the least p-value is about 1/80, and an alarm needs one in a million."""
    found = [finding for _ in range(16) for finding in randomness.noise_findings(Engine())]
    found += [
        check(Engine()) for _ in range(16) for check in (randomness.sampler_rate, randomness.sampler_independence)
    ]
    values = np.array([finding.p_value for finding in found], dtype=float)
    assert (values >= ALARM).all()
    assert np.median(values) > 0.1  # They are p-values, and not small by construction.


def test_seeds_of_the_process_are_left_as_they_were() -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    ahead = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    randomness.noise_secrecy(Engine())
    randomness.sampler_secrecy(Engine())
    assert (torch.rand(1), np.random.rand()) == ahead


def mutant_named(name: str) -> Mutant:
    return MUTANTS[name][0]


def test_the_pooled_loss_moves_the_sum_by_more_than_the_clip_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    found = mechanism.neighbour_sensitivity(mutant_named("pooled loss")(monkeypatch))
    largest = float(found.measured.split("difference ")[1].split(" ×")[0])
    assert largest > 3  # Measured through Opacus on a real model: 4.38.
