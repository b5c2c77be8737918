"""Numbers come from closed forms, from direct integration, and from dp_accounting; never from our own output."""

import logging
import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from privacy import rdp

ORDERS = np.array(rdp.ORDERS)


@pytest.fixture(autouse=True)
def quiet_dp_accounting() -> Iterator[None]:
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(before)


def google(event: dp_event.DpEvent) -> RdpAccountant:
    accountant = RdpAccountant(list(rdp.ORDERS))
    accountant.compose(event)
    return accountant


def integrated(rate: float, noise: float, order: float) -> float:
    """Log-moment of the sampled Gaussian by quadrature: E[(1 + q (e^((2x-1)/2s^2) - 1))^order] under N(0, s)."""

    def integrand(x: float) -> float:
        log_density = -x * x / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi))
        log_ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2))
        return math.exp(log_density + order * float(log_ratio))

    edges = [-12 * noise, 0.0, order, order + 12 * noise]
    return math.log(sum(quad(integrand, a, b, epsabs=0, limit=400)[0] for a, b in pairwise(edges)))


def test_rdp_of_one_gaussian_step_is_alpha_over_two_sigma_squared() -> None:
    assert rdp.gaussian(3.0) == pytest.approx(ORDERS / 18, rel=1e-14)
    assert rdp.sampled_gaussian(1.0, 3.0) == pytest.approx(ORDERS / 18, rel=1e-14)


@pytest.mark.parametrize(("rate", "noise"), [(0.01, 1.0), (0.1, 2.0), (0.3, 0.8), (0.5, 1.5), (0.9, 3.0)])
def test_the_sampled_gaussian_is_what_integration_gives(rate: float, noise: float) -> None:
    curve = rdp.sampled_gaussian(rate, noise)
    for order in (1.5, 2.0, 3.5, 8.0, 17.0):
        exact = integrated(rate, noise, order) / (order - 1)
        ours = curve[rdp.ORDERS.index(order)]
        assert ours >= exact * (1 - 1e-7), "an accountant may only round up"
        assert ours == pytest.approx(exact, rel=1e-9 if order.is_integer() else 1.0)


PAIRS = [
    (rate, noise)
    for rate in (0.001, 0.01, 0.032, 0.1, 0.3, 0.7, 1.0)
    for noise in (0.5, 0.6, 0.8, 1.0, 2.0, 4.0, 8.0, 20.0)
]


def test_epsilon_agrees_with_dp_accounting_on_a_grid() -> None:
    """At epsilon above 100 dp-accounting's series fails at the best orders and it leaves them out; ours is tighter."""
    agreed = 0
    for rate, noise in PAIRS:
        event = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise))
        one = google(event).rdp
        for steps in (1, 10, 100, 1000, 10_000):
            theirs = compute_epsilon(rdp.ORDERS, steps * one, 1e-5)[0]
            ours = rdp.epsilon_from_rdp(steps * rdp.sampled_gaussian(rate, noise), 1e-5)
            if theirs < 100:
                assert ours == pytest.approx(theirs, rel=1e-6), (rate, noise, steps)
                agreed += 1
            else:
                assert ours <= theirs * (1 + 1e-6)
    assert agreed >= 200


@pytest.mark.parametrize("scale", [0.3, 1.0, 7.0, 200.0])
def test_laplace_agrees_with_dp_accounting(scale: float) -> None:
    assert rdp.laplace(scale) == pytest.approx(google(dp_event.LaplaceDpEvent(scale)).rdp, rel=1e-6)


def test_laplace_of_tiny_epsilon_stays_below_the_bound_for_pure_privacy() -> None:
    for scale in (1e3, 1e5, 1e7, 1e9):
        curve = rdp.laplace(scale)
        assert np.all(curve > 0)
        assert np.all(curve <= ORDERS / 2 / scale**2 * (1 + 1e-9))


def test_conversion_is_proposition_12_of_canonne_kamath_steinke() -> None:
    curve = rdp.gaussian(2.0)
    by_hand = min(
        order / 8 + math.log1p(-1 / order) - math.log(1e-5 * order) / (order - 1)
        for order in rdp.ORDERS
        if order > 1.04
    )
    assert rdp.epsilon_from_rdp(curve, 1e-5) == pytest.approx(by_hand, rel=1e-12)


def test_headroom_is_the_inverse_of_conversion() -> None:
    room = rdp.headroom_at_orders(3.0, 1e-5)
    usable = room > 0.01
    assert rdp.epsilon_at_orders(room, 1e-5)[usable] == pytest.approx(3.0, abs=1e-12)


@given(
    rate=st.floats(0, 1, exclude_min=True),
    noise=st.floats(1e-12, 1e12),
    delta=st.floats(1e-300, 0.999),
    uses=st.integers(1, 10**12),
)
def test_no_input_gives_a_negative_figure_or_none_at_all(rate: float, noise: float, delta: float, uses: int) -> None:
    for curve in (rdp.sampled_gaussian(rate, noise), rdp.gaussian(noise), rdp.laplace(noise)):
        assert not np.any(np.isnan(curve))
        assert np.all(curve >= 0)
        epsilon = rdp.epsilon_from_rdp(uses * curve, delta)
        assert epsilon >= 0
        assert not math.isnan(epsilon)


@given(rate=st.floats(1e-6, 1), noise=st.floats(0.3, 100))
def test_sampling_never_costs_more_than_the_full_batch(rate: float, noise: float) -> None:
    assert np.all(rdp.sampled_gaussian(rate, noise) <= rdp.gaussian(noise) * (1 + 1e-6) + 1e-12)


def test_opacus_prints_a_negative_epsilon_here_and_we_do_not() -> None:
    """Opacus issue 585: sigma 8, q 0.1, one step, delta 0.01."""
    assert rdp.epsilon_from_rdp(rdp.sampled_gaussian(0.1, 8.0), 0.01) >= 0


def test_the_grid_of_orders_is_fixed_and_versioned() -> None:
    assert rdp.ORDERS_VERSION == 1
    assert len(rdp.ORDERS) == 119
    assert (rdp.ORDERS[0], rdp.ORDERS[-1]) == (1.05, 1024.0)
    assert list(rdp.ORDERS) == sorted(set(rdp.ORDERS))
