"""A gate on private scores: what it may see is clipped, noised once and charged; and mutants that the checks catch."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from privacy import (
    BudgetExhaustedError,
    DpSgdRun,
    EngineError,
    EventError,
    GateRelease,
    GaussianRelease,
    Neighbours,
    ReceiptError,
    gate,
    noise,
)
from privacy.gate import charged_mean, noise_std, released_mean
from privacy.verify import verify_export
from tests.privacy.ledgers import KEY, opened

Released = Callable[..., float]
SCORES = [0.3, -0.1, 50.0, -7.0, 0.0]


def silence(shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def require_no_unit_moves_the_sum_by_more_than_the_bound(release: Released) -> None:
    whole = release(SCORES, bound=0.5, noise_multiplier=1.0, gaussian=silence) * len(SCORES)
    for unit in range(len(SCORES)):
        empty = [0.0 if index == unit else score for index, score in enumerate(SCORES)]
        moved = abs(whole - release(empty, bound=0.5, noise_multiplier=1.0, gaussian=silence) * len(SCORES))
        assert moved <= 0.5 + 1e-12, f"unit {unit} moves the sum by {moved:.1f}"


def require_the_noise_of_the_event(release: Released, draws: int = 4_000) -> None:
    """The variance is chi-square around what was charged; a sound release fails once in a billion."""
    std = noise_std(4, bound=0.5, noise_multiplier=3.0)
    drawn = [release([0.1] * 4, bound=0.5, noise_multiplier=3.0) - 0.1 for _ in range(draws)]
    energy = math.fsum((one / std) ** 2 for one in drawn)
    assert 1e-9 < stats.chi2.cdf(energy, draws) < 1 - 1e-9, (
        f"noise is {math.sqrt(energy / draws):.1f} times the charged"
    )
    assert stats.kstest([one / std for one in drawn], "norm").pvalue > 1e-9, "noise is not normal"


def test_without_noise_it_is_the_mean_of_the_clipped_scores() -> None:
    assert released_mean(SCORES, bound=0.5, noise_multiplier=2.0, gaussian=silence) == pytest.approx(0.2 / 5)


def test_no_unit_moves_the_sum_by_more_than_the_bound() -> None:
    require_no_unit_moves_the_sum_by_more_than_the_bound(released_mean)


def test_the_noise_is_that_of_the_event() -> None:
    require_the_noise_of_the_event(released_mean)


def test_scores_without_a_clip_are_caught() -> None:
    def unclipped(scores: list[float], *, bound: float, noise_multiplier: float, **sources: object) -> float:
        return math.fsum(scores) / len(scores)

    with pytest.raises(AssertionError, match="unit 2 moves the sum by 50"):
        require_no_unit_moves_the_sum_by_more_than_the_bound(unclipped)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.2])
def test_another_amount_of_noise_is_caught(factor: float) -> None:
    def louder(scores: list[float], *, bound: float, noise_multiplier: float) -> float:
        return released_mean(
            scores,
            bound=bound,
            noise_multiplier=noise_multiplier,
            gaussian=lambda shape: factor * noise.gaussian(shape),
        )

    with pytest.raises(AssertionError, match=f"noise is {factor:.1f} times the charged"):
        require_the_noise_of_the_event(louder)


@given(
    scores=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=20),
    bound=st.floats(1e-3, 1e3),
)
def test_whatever_the_scores_the_mean_is_a_number_within_the_bound(scores: list[float], bound: float) -> None:
    assert abs(released_mean(scores, bound=bound, noise_multiplier=1.0, gaussian=silence)) <= bound * (1 + 1e-12)


def test_a_score_that_is_not_finite_counts_as_that_of_an_empty_unit() -> None:
    means = [released_mean([odd, 0.2], bound=1, noise_multiplier=1, gaussian=silence) for odd in (math.nan, math.inf)]
    assert means == [0.1, 0.1]


@pytest.mark.parametrize(
    ("scores", "bound", "noise_multiplier"),
    [([], 1.0, 1.0), ([0.1], 0.0, 1.0), ([0.1], math.inf, 1.0), ([0.1], 1.0, 0.0), ([0.1], 1.0, math.nan)],
)
def test_what_would_be_no_private_mean_is_refused(scores: list[float], bound: float, noise_multiplier: float) -> None:
    with pytest.raises(EngineError, match=r"gate needs the score|must be above 0 and finite"):
        released_mean(scores, bound=bound, noise_multiplier=noise_multiplier)


# --- charged ---------------------------------------------------------------------------------------------------------


def test_a_gate_is_charged_before_it_looks_and_the_independent_path_agrees(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        receipt = ledger.reserve(GateRelease(noise_multiplier=8.0, count=2), blocks=["2026-11-24"], caller="gate")
        spent = ledger.spent()
        assert spent > 0.5
        assert math.isfinite(charged_mean(SCORES, bound=0.5, ledger=ledger, receipt=receipt))
        assert math.isfinite(charged_mean(SCORES, bound=0.5, ledger=ledger, receipt=receipt))
        with pytest.raises(ReceiptError, match="has 0 steps left"):
            charged_mean(SCORES, bound=0.5, ledger=ledger, receipt=receipt)
        ledger.close(receipt, "rejected")
        assert ledger.spent() == spent
        assert verify_export(ledger.export(), key=KEY).spent["experience"] == pytest.approx(spent, rel=1e-9)


def test_a_gate_that_does_not_fit_the_budget_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path, epsilon=0.5) as ledger, pytest.raises(BudgetExhaustedError):
        ledger.reserve(GateRelease(noise_multiplier=2.0), blocks=["2026-11-24"])


@pytest.mark.parametrize(
    "run", [GaussianRelease(noise_multiplier=8.0), DpSgdRun(noise_multiplier=8.0, sampling_rate=1.0, steps=1)]
)
def test_a_receipt_for_something_else_pays_for_no_gate(
    run: GaussianRelease | DpSgdRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as ledger:
        receipt = ledger.reserve(run, blocks=["2026-11-24"])
        monkeypatch.setattr(gate, "released_mean", lambda *rest, **more: pytest.fail("scores were looked at"))
        with pytest.raises(EventError, match="a gate needs a receipt for a GateRelease under zero_out"):
            charged_mean(SCORES, bound=0.5, ledger=ledger, receipt=receipt)
        assert [entry.kind for entry in ledger.entries()].count("draw") == 0


def test_a_gate_under_a_relation_that_hides_the_number_of_units_is_refused(tmp_path: Path) -> None:
    from privacy import Budget, Ledger

    budget = Budget(epsilon=4.0, neighbours=Neighbours.ADD_OR_REMOVE)
    with Ledger.open(tmp_path / "ledger.db", key=KEY, budget=budget) as ledger:
        run = GateRelease(noise_multiplier=8.0, neighbours=Neighbours.ADD_OR_REMOVE)
        receipt = ledger.reserve(run, blocks=["2026-11-24"])
        with pytest.raises(EventError, match="under zero_out"):
            charged_mean(SCORES, bound=0.5, ledger=ledger, receipt=receipt)


def test_an_impossible_bound_draws_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        receipt = ledger.reserve(GateRelease(noise_multiplier=8.0), blocks=["2026-11-24"])
        with pytest.raises(EngineError):
            charged_mean(SCORES, bound=-1.0, ledger=ledger, receipt=receipt)
        assert ledger.draw(receipt) == 0
