import itertools
import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import norm

from privacy import accounting
from privacy.accounting import MAX_EVENTS, epsilon, gaussian_epsilon, group, noise_multiplier, rdp_curve
from privacy.errors import AccountingError, EventError
from privacy.events import (
    DpSgdRun,
    Event,
    GateRelease,
    GaussianRelease,
    LaplaceRelease,
    MatrixFactorisationRun,
    Neighbours,
    Unit,
)
from tests.privacy.strategies import events

DELTA = 1e-5


def run(rate: float, noise: float, steps: int, **more: Any) -> DpSgdRun:
    return DpSgdRun(sampling_rate=rate, noise_multiplier=noise, steps=steps, **more)


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "figure"), [(0.01, 1, 1000, 1.829), (0.01, 2, 10_000, 2.170), (0.1, 2, 1000, 8.280)]
)
def test_pld_gives_the_published_figures(rate: float, noise: float, steps: int, figure: float) -> None:
    assert epsilon(run(rate, noise, steps), delta=DELTA) == pytest.approx(figure, abs=6e-4)


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "figure"), [(0.01, 1, 1000, 2.101), (0.01, 2, 10_000, 2.353), (0.1, 2, 1000, 8.947)]
)
def test_rdp_gives_the_published_figures(rate: float, noise: float, steps: int, figure: float) -> None:
    assert epsilon(run(rate, noise, steps), delta=DELTA, accountant="rdp") == pytest.approx(figure, abs=6e-4)


def test_pld_of_gaussians_is_the_closed_form() -> None:
    """Balle and Wang 2018: delta = Phi(1/2s - eps s) - e^eps Phi(-1/2s - eps s)."""
    for noise in (0.3, 1.0, 3.7, 40.0):
        exact = gaussian_epsilon(noise, DELTA)
        back = norm.cdf(0.5 / noise - exact * noise) - math.exp(exact) * norm.cdf(-0.5 / noise - exact * noise)
        assert back == pytest.approx(DELTA, rel=1e-4)
        assert back <= DELTA


def test_many_gaussian_releases_are_one_with_less_noise() -> None:
    together = epsilon([GaussianRelease(noise_multiplier=6, count=4), run(1.0, 3.0, 1)], delta=DELTA)
    assert together == pytest.approx(gaussian_epsilon(1 / math.sqrt(4 / 36 + 1 / 9), DELTA), rel=1e-9)


def test_a_gate_costs_what_the_release_of_its_score_costs() -> None:
    gate, score = GateRelease(noise_multiplier=5, count=2), GaussianRelease(noise_multiplier=5, count=2)
    assert epsilon(gate, delta=DELTA) == epsilon(score, delta=DELTA)


def test_one_laplace_release_costs_at_most_its_pure_epsilon() -> None:
    assert epsilon(LaplaceRelease(scale=2), delta=1e-12) <= 0.5 + 2e-3  # The loss grid rounds up by at most one step.


def test_a_mixture_by_pld_is_below_rdp_and_above_each_part() -> None:
    parts: list[Event] = [run(0.02, 1.0, 100), GaussianRelease(noise_multiplier=4), LaplaceRelease(scale=10, count=3)]
    together = epsilon(parts, delta=DELTA)
    assert max(epsilon(part, delta=DELTA) for part in parts) < together < epsilon(parts, delta=DELTA, accountant="rdp")


def test_nothing_costs_nothing() -> None:
    assert epsilon([], delta=DELTA) == 0.0
    assert epsilon([], delta=DELTA, accountant="rdp") == 0.0


def test_replacing_a_record_doubles_the_sensitivity_of_a_full_batch() -> None:
    replaced = run(1.0, 4.0, 3, neighbours=Neighbours.REPLACE)
    assert epsilon(replaced, delta=DELTA) == epsilon(run(1.0, 2.0, 3), delta=DELTA)


def test_sampling_under_replacement_is_refused_because_no_bound_is_known() -> None:
    with pytest.raises(AccountingError, match="zero_out"):
        epsilon(run(0.1, 1.0, 3, neighbours=Neighbours.REPLACE), delta=DELTA)


def test_zeroing_a_record_costs_what_adding_or_removing_one_costs() -> None:
    other = run(0.1, 1.0, 30, neighbours=Neighbours.ADD_OR_REMOVE)
    assert epsilon(other, delta=DELTA) == epsilon(run(0.1, 1.0, 30), delta=DELTA)


def test_figures_for_different_units_or_relations_are_not_added_up() -> None:
    for other in (run(1, 1, 1, unit=Unit.DAY), run(1, 1, 1, neighbours=Neighbours.ADD_OR_REMOVE)):
        with pytest.raises(EventError, match="apart"):
            epsilon([run(1, 1, 1), other], delta=DELTA)


def test_a_stream_costs_what_one_gaussian_at_its_sensitivity_costs() -> None:
    shape = {"steps": 1, "bands": 1, "min_separation": 1, "max_participations": 1}
    stream = MatrixFactorisationRun(noise_multiplier=3.0, **shape)  # type: ignore[arg-type]
    assert epsilon(stream, delta=DELTA) == epsilon(GaussianRelease(noise_multiplier=3.0), delta=DELTA)
    with pytest.raises(AccountingError, match="zero_out"):
        epsilon(MatrixFactorisationRun(noise_multiplier=3.0, neighbours=Neighbours.ADD_OR_REMOVE, **shape), delta=DELTA)  # type: ignore[arg-type]


@pytest.mark.parametrize("delta", [0, 1, -1e-5, 2, float("nan"), float("inf")])
def test_an_impossible_delta_is_refused(delta: float) -> None:
    with pytest.raises(AccountingError, match="delta"):
        epsilon(run(1, 1, 1), delta=delta)


def test_a_delta_that_lets_one_whole_record_out_is_refused() -> None:
    assert epsilon(run(1, 1, 1), delta=1e-5, records=100_000) > 0
    with pytest.raises(AccountingError, match="records"):
        epsilon(run(1, 1, 1), delta=1e-5, records=100_001)


def test_an_unknown_accountant_and_what_is_no_event_are_refused() -> None:
    with pytest.raises(AccountingError, match="accountant"):
        epsilon(run(1, 1, 1), delta=DELTA, accountant="moments")  # type: ignore[arg-type]
    with pytest.raises(EventError, match="events"):
        epsilon([run(1, 1, 1), {"event": "dp_sgd_run/1"}], delta=DELTA)  # type: ignore[list-item]
    with pytest.raises(EventError, match="iterable"):
        epsilon(7, delta=DELTA)  # type: ignore[arg-type]


def test_ten_million_steps_cost_no_more_time_than_one() -> None:
    before = time.process_time()
    assert epsilon(run(0.001, 4.0, 10_000_000), delta=DELTA, accountant="rdp") > 0
    assert time.process_time() - before < 0.5


def test_ten_million_event_objects_are_refused_in_one_line_without_reading_them_all() -> None:
    endless = itertools.repeat(run(1, 1, 1))
    with pytest.raises(EventError, match=str(MAX_EVENTS)):
        epsilon(endless, delta=DELTA)


def test_equal_events_are_grouped() -> None:
    counted = group([run(0.1, 2.0, 10, clip_norm=0.5), run(0.1, 2.0, 5), GaussianRelease(noise_multiplier=2)])
    assert sorted(counted.values()) == [1, 15]


def test_hopeless_noise_is_infinite_epsilon_and_not_a_crash() -> None:
    for accountant in ("pld", "rdp"):
        assert epsilon(run(0.5, 1e-9, 1), delta=DELTA, accountant=accountant) == math.inf
        assert epsilon(run(1.0, 1e-200, 1), delta=DELTA, accountant=accountant) == math.inf


def test_too_many_different_runs_for_pld_get_the_bound_of_rdp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "_MAX_PLD_GROUPS", 2)
    many = [run(0.01, noise, 10) for noise in (1.0, 1.1, 1.2)]
    assert epsilon(many, delta=DELTA) == epsilon(many, delta=DELTA, accountant="rdp")


@given(st.lists(events(), min_size=1, max_size=6), events())
@settings(deadline=None, max_examples=60)
def test_spend_never_falls(runs: list[Event], another: Event) -> None:
    before = epsilon(runs, delta=DELTA, accountant="rdp")
    assert epsilon([*runs, another], delta=DELTA, accountant="rdp") >= before >= 0


@given(st.lists(events(), min_size=2, max_size=6), st.randoms())
@settings(deadline=None, max_examples=60)
def test_the_order_of_events_is_irrelevant(runs: list[Event], random: Any) -> None:
    shuffled = list(runs)
    random.shuffle(shuffled)
    assert epsilon(shuffled, delta=DELTA, accountant="rdp") == epsilon(runs, delta=DELTA, accountant="rdp")
    assert rdp_curve(shuffled).tolist() == rdp_curve(runs).tolist()


@given(st.lists(events(), min_size=1, max_size=3))
@settings(deadline=None, max_examples=10)
def test_pld_is_never_above_rdp_and_never_negative(runs: list[Event]) -> None:
    assert 0 <= epsilon(runs, delta=DELTA) <= epsilon(runs, delta=DELTA, accountant="rdp")


@pytest.mark.parametrize(("rate", "steps", "budget"), [(1.0, 10, 2.0), (0.032, 100, 2.0), (0.1, 3, 0.5), (1.0, 1, 8.0)])
def test_the_inverse_holds_the_budget_and_wastes_less_than_a_thousandth_of_noise(
    rate: float, steps: int, budget: float
) -> None:
    noise = noise_multiplier(epsilon=budget, delta=DELTA, sampling_rate=rate, steps=steps)
    assert epsilon(run(rate, noise, steps), delta=DELTA, accountant="rdp") <= budget
    assert epsilon(run(rate, noise * 0.999, steps), delta=DELTA, accountant="rdp") > budget
    assert float(f"{noise:.4g}") == noise


def test_the_inverse_of_one_gaussian_by_pld_is_the_analytic_gaussian_mechanism() -> None:
    noise = noise_multiplier(epsilon=1.0, delta=DELTA, sampling_rate=1.0, steps=1, accountant="pld")
    assert noise == pytest.approx(3.730632, rel=2e-4)  # Balle and Wang 2018, their published code at (1, 1e-5).
    assert gaussian_epsilon(noise, DELTA) <= 1.0


def test_the_inverse_counts_what_was_spent_before() -> None:
    prior = [run(1.0, 8.0, 10)]
    noise = noise_multiplier(epsilon=3.0, delta=DELTA, sampling_rate=1.0, steps=10, prior=prior)
    assert epsilon([*prior, run(1.0, noise, 10)], delta=DELTA, accountant="rdp") <= 3.0
    assert noise > noise_multiplier(epsilon=3.0, delta=DELTA, sampling_rate=1.0, steps=10)


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf")])
def test_the_inverse_refuses_a_budget_that_is_none(budget: float) -> None:
    with pytest.raises(AccountingError, match="epsilon"):
        noise_multiplier(epsilon=budget, delta=DELTA, sampling_rate=1.0, steps=1)


def test_the_inverse_says_when_no_noise_suffices() -> None:
    with pytest.raises(AccountingError, match="no noise"):
        noise_multiplier(epsilon=1.0, delta=DELTA, sampling_rate=1.0, steps=1, prior=[run(1.0, 0.5, 10)])
    with pytest.raises(EventError, match="sampling_rate"):
        noise_multiplier(epsilon=1.0, delta=DELTA, sampling_rate=1.5, steps=1)


@pytest.mark.parametrize(
    "odd", [None, "1e-5", [], 1j, 10**400, math.nan, np.array([1e-5, 1e-6])], ids=lambda odd: repr(odd)[:9]
)
def test_a_delta_an_epsilon_or_records_that_are_no_numbers_are_refused_in_one_line(odd: Any) -> None:
    with pytest.raises(AccountingError, match="delta"):
        epsilon(run(1, 1, 1), delta=odd)
    with pytest.raises(AccountingError, match="epsilon"):
        noise_multiplier(epsilon=odd, delta=DELTA, sampling_rate=1.0, steps=1)
    if odd is not None:
        with pytest.raises(AccountingError, match="records"):
            epsilon(run(1, 1, 1), delta=DELTA, records=odd)


@pytest.mark.parametrize("delta", [2e-7, 1e-9, 1e-12])
def test_faint_gaussian_releases_have_an_exact_epsilon(delta: float) -> None:
    """Two probabilities near 1/2 cancel there; delta(eps) is E[(L - eps)+] of the loss L, a normal of std 1/noise."""
    noise = 1e6
    reached = gaussian_epsilon(noise, delta) * noise
    assert float(norm.pdf(reached) - reached * ndtr(-reached)) / noise == pytest.approx(delta, rel=1e-3)


@pytest.mark.parametrize(
    "event",
    [LaplaceRelease(scale=1e9, count=10**12), run(1e-8, 0.011, 1), LaplaceRelease(scale=0.001)],
    ids=["a trillion uses", "hardly any noise, hardly any sample", "hardly any noise"],
)
def test_where_a_loss_grid_would_take_minutes_the_figure_beside_is_the_enforced_one(event: Event) -> None:
    before = time.process_time()
    assert epsilon(event, delta=DELTA) == epsilon(event, delta=DELTA, accountant="rdp")
    assert time.process_time() - before < 1
