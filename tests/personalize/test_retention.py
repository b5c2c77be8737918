"""The gate: bad candidates are refused, harmless ones pass, and the figures follow their formulas."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from personalize import retention
from personalize.adapter import Adapter
from personalize.errors import ProbeError
from personalize.retention import ALPHAS, MARGINS, AdmittedAdapter, LegVerdict, Verdict, admit, compare
from personalize.spending import level_of
from tests import planted
from tests.nights import tiny_base, warm_adapter

BASE = tiny_base()
BARE = BASE.bare()
UNITS = {"skill": "nats per token"}


def judged(candidate: Adapter, current: Adapter = BARE, look: int = 1) -> tuple[Verdict, AdmittedAdapter | None]:
    return admit(BASE.model, current=current, candidate=candidate, base=BARE, probes=BASE.gate(), look=look)


def scaled(adapter: Adapter, factor: float) -> Adapter:
    return replace(adapter, b={site: factor * value for site, value in adapter.b.items()})


def scrambled(adapter: Adapter) -> Adapter:
    """The same numbers, each in a random place."""
    generator = torch.Generator().manual_seed(0)
    places = {site: torch.randperm(value.numel(), generator=generator) for site, value in adapter.b.items()}
    return replace(adapter, b={site: value.flatten()[places[site]].view_as(value) for site, value in adapter.b.items()})


def useful() -> Adapter:
    """An adapter that a night might have made: small, and pulled toward better answers on the probes' own text."""
    return warm_adapter(BASE.model, size=0.004)


# Decisions


def test_an_adapter_that_changes_nothing_passes_with_drop_zero() -> None:
    verdict, admitted = judged(BARE)
    assert verdict.alpha == 1.0
    assert admitted is not None
    assert admitted.verdict == verdict
    assert [leg.drop for leg in verdict.legs] == [0.0, 0.0]
    assert [leg.detectable_drop for leg in verdict.legs] == [0.0, 0.0]


def test_a_small_change_passes_whole() -> None:
    verdict, admitted = judged(useful())
    assert verdict.alpha == 1.0
    assert admitted is not None
    assert all(leg.passed and leg.drop != 0 for leg in verdict.legs)


@pytest.mark.parametrize(
    "bad",
    [
        scrambled(warm_adapter(BASE.model, size=2.0)),
        scaled(useful(), -50 * 10),
        scaled(useful(), 1_000),
    ],
    ids=["scrambled", "sign-flipped and magnified", "over-scaled"],
)
def test_a_bad_adapter_is_refused_at_every_share(bad: Adapter) -> None:
    verdict, admitted = judged(bad)
    assert admitted is None
    assert not verdict.admitted
    assert verdict.alpha == 0.0
    assert not all(leg.passed for leg in verdict.legs)


def test_a_learned_adapter_with_its_sign_flipped_fifty_times_over_is_refused() -> None:
    from personalize.forward import encode, prefixes
    from personalize.plan import NightPlan
    from personalize.train import train
    from personalize.trainable import trainable

    texts = [encode(BASE.tokenizer, "say", str(row["answer"])) for row in BASE.rehearsal]
    lessons = list(prefixes(BASE.model, texts, cut=BASE.spec.cut))
    plan = NightPlan(kind="frozen-a", steps=5, step_size=3e-3, rehearsal_weight=0.0)
    learned = train(BASE.model, trainable("frozen-a", BARE, model=BASE.model), lessons, [], plan, run=None)
    assert judged(learned)[1] is not None
    assert judged(scaled(learned, -50))[1] is None


TEXTS = [("say", str(row["answer"])) for row in BASE.rehearsal] * 2
"""What the tiny base was taught: an adapter that learns it again does no harm."""

PLANTED_BAD: dict[str, Callable[[], Adapter]] = {
    "scrambled": lambda: planted.scrambled(planted.useful(BASE, TEXTS), strength=10.0),
    "sign-flipped": lambda: planted.flipped(planted.useful(BASE, TEXTS), strength=3.0),
    "poisoned towards one phrase": lambda: planted.poisoned(BASE, TEXTS, strength=6.0),
    "over-trained": lambda: planted.over_trained(BASE, [("say", "the union of the parser sat")] * 8),
}
PLANTED_GOOD: dict[str, Callable[[], Adapter]] = {
    "the identity": BASE.bare,
    "a small useful one": lambda: planted.useful(BASE, TEXTS, strength=0.3),
    "a domain adapter": lambda: planted.taught(BASE, TEXTS, steps=8, rate=3e-4, kind="frozen-a"),
}


@pytest.mark.parametrize("kind", PLANTED_BAD)
def test_a_planted_bad_adapter_is_refused_on_the_first_night_and_on_a_late_one(kind: str) -> None:
    bad = PLANTED_BAD[kind]()
    for look in (1, 24):
        verdict, admitted = judged(bad, look=look)
        assert admitted is None, f"{kind} was let in at alpha {verdict.alpha}"


@pytest.mark.parametrize("kind", PLANTED_GOOD)
def test_a_good_adapter_is_let_in_whole_on_the_first_night_and_on_a_late_one(kind: str) -> None:
    good = PLANTED_GOOD[kind]()
    for look in (1, 24):
        verdict, admitted = judged(good, look=look)
        assert (verdict.alpha, admitted is None) == (1.0, False), [leg for leg in verdict.legs if not leg.passed]


def test_an_adapter_that_is_not_finite_is_not_judged_at_all() -> None:
    with pytest.raises(ProbeError, match="one that is not finite; nothing is admitted"):
        judged(scaled(useful(), float("nan")))


def test_the_largest_share_that_holds_is_admitted() -> None:
    """Between a harmless and a harmful adapter the drop grows along the way, so the grid is walked from its top."""
    candidate = warm_adapter(BASE.model, size=0.1)
    verdict, admitted = judged(candidate)
    assert 0 < verdict.alpha < 1
    assert admitted is not None
    before, units = BASE.gate().score(BASE.model, BARE), BASE.gate().units()
    for place, alpha in enumerate(ALPHAS):
        level = level_of(look=1, place=place, shares=len(ALPHAS))
        legs = compare(
            before, BASE.gate().score(BASE.model, BARE.toward(candidate, alpha)), units, MARGINS, level=level
        )
        assert all(leg.passed for leg in legs) == (alpha <= verdict.alpha)
    for site, value in admitted.adapter.b.items():
        assert torch.equal(value, BARE.toward(candidate, verdict.alpha).b[site])


def test_shares_are_tried_from_the_largest_and_only_until_one_holds() -> None:
    tried: list[float] = []
    admit(
        BASE.model,
        current=BARE,
        candidate=warm_adapter(BASE.model, size=0.1),
        base=BARE,
        probes=BASE.gate(),
        alphas=(1.0, 0.1, 0.01),
        progress=tried.append,
    )
    assert tried[0] == 1.0
    assert tried == [1.0, 0.1, 0.01][: len(tried)]
    assert len(tried) < 3


def test_drift_over_many_nights_is_measured_from_the_bare_base() -> None:
    """Each night's step is harmless beside the adapter in use, and the gate still stops the walk."""
    step = warm_adapter(BASE.model, size=0.02)
    current, admitted_nights = BARE, 0
    for _ in range(30):
        wanted = replace(current, b={site: value + step.b[site] for site, value in current.b.items()})
        _, admitted = admit(BASE.model, current=current, candidate=wanted, base=BARE, probes=BASE.gate(), alphas=(1.0,))
        if admitted is None:
            break
        current, admitted_nights = admitted.adapter, admitted_nights + 1
    assert 0 < admitted_nights < 30
    legs = compare(
        BASE.gate().score(BASE.model, BARE),
        BASE.gate().score(BASE.model, current),
        BASE.gate().units(),
        MARGINS,
        level=0.05,
    )
    assert all(leg.drop < leg.margin for leg in legs)


def test_only_the_gate_makes_an_admitted_adapter() -> None:
    verdict, admitted = judged(BARE)
    assert isinstance(admitted, AdmittedAdapter)
    for proof in (None, object(), True, "proof"):
        with pytest.raises(TypeError, match=r"only retention\.admit makes an AdmittedAdapter"):
            AdmittedAdapter(BARE, verdict, proof=proof)
    with pytest.raises(TypeError):
        AdmittedAdapter(BARE, verdict)


def test_a_gate_that_admits_everything_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LegVerdict, "passed", True)
    with pytest.raises(AssertionError):
        test_a_bad_adapter_is_refused_at_every_share(scaled(useful(), 1_000))


def test_a_gate_that_compares_with_the_adapter_in_use_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = retention.compare
    last: list[dict[str, Tensor]] = []

    def drifting(before: dict[str, Tensor], after: dict[str, Tensor], *rest: Any, **more: Any) -> object:
        legs = real(last[-1] if last else before, after, *rest, **more)
        last.append(after)
        return legs

    monkeypatch.setattr(retention, "compare", drifting)
    with pytest.raises(AssertionError):
        test_drift_over_many_nights_is_measured_from_the_bare_base()


# Figures


def one_leg(before: Tensor, after: Tensor, margin: float = 0.05, level: float = 0.05) -> LegVerdict:
    (leg,) = compare({"skill": before}, {"skill": after}, UNITS, {"nats per token": margin}, level=level)
    return leg


def test_the_figures_of_a_leg_follow_their_closed_forms() -> None:
    difference = torch.tensor([0.1, -0.2, 0.3, 0.0], dtype=torch.float64)  # Mean 0.05, squares about it sum to 0.13.
    leg = one_leg(torch.ones(4, dtype=torch.float64), 1 + difference)
    error = (0.13 / 3) ** 0.5 / 2
    assert leg.items == 4
    assert leg.drop == pytest.approx(0.05)
    assert leg.upper == pytest.approx(0.05 + 2.353363 * error, rel=1e-6)  # Student's t, 95 %, 3 degrees of freedom.
    assert leg.detectable_drop == pytest.approx((1.644854 + 0.841621) * error, rel=1e-6)  # Normal, 95 % and 80 %.
    assert not leg.passed
    stricter = one_leg(torch.ones(4, dtype=torch.float64), 1 + difference, level=0.01)
    assert stricter.upper == pytest.approx(0.05 + 4.540703 * error, rel=1e-6)  # 99 %, 3 degrees of freedom.
    assert stricter.detectable_drop == pytest.approx((2.326348 + 0.841621) * error, rel=1e-6)


def test_the_detectable_drop_is_found_four_times_in_five() -> None:
    rng = torch.Generator().manual_seed(11)
    items, spread = 400, 0.3
    drop = (1.644854 + 0.841621) * spread / items**0.5
    seen = 0
    for _ in range(1_000):
        leg = one_leg(torch.zeros(items), drop + spread * torch.randn(items, generator=rng))
        seen += leg.drop - float(stats.norm.ppf(0.95)) * leg.detectable_drop / 2.486475 > 0
    assert stats.binomtest(seen, 1_000, 0.8).pvalue > 1e-6


def test_a_model_at_the_margin_passes_at_most_one_time_in_twenty() -> None:
    rng = torch.Generator().manual_seed(12)
    passed = sum(one_leg(torch.zeros(50), 0.05 + 0.2 * torch.randn(50, generator=rng)).passed for _ in range(1_000))
    assert stats.binomtest(passed, 1_000, 0.05).pvalue > 1e-6


def test_a_shift_that_mirrored_kinds_cancel_widens_nothing() -> None:
    """Stratified by hand: two kinds at +10 and -10, each with spread 1; pooled, the spread would be 10."""
    noise = torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    after = torch.cat([10 + noise, -10 + noise])
    kinds = {"skill": ["he"] * 4 + ["she"] * 4}
    figures = ({"skill": torch.zeros(8)}, {"skill": after}, UNITS, {"nats per token": 1.0})
    (leg,) = compare(*figures, level=0.05, strata=kinds)
    error = (8 / 6 / 8) ** 0.5  # Eight squares of 1 over 8 - 2 degrees of freedom, over 8 items.
    assert leg.drop == pytest.approx(0.0, abs=1e-12)
    assert leg.upper == pytest.approx(1.943180 * error, rel=1e-6)  # Student's t, 95 %, 6 degrees of freedom.
    assert leg.passed
    (pooled,) = compare(*figures, level=0.05)
    assert pooled.upper > 5
    (alone,) = compare(*figures, level=0.05, strata={"skill": [f"kind {row}" for row in range(8)]})
    assert alone.upper == pytest.approx(pooled.upper)


def test_kinds_of_one_item_join_and_a_single_leftover_makes_one_kind_of_all() -> None:
    after = torch.tensor([0.0, 1.0, 5.0, 9.0], dtype=torch.float64)
    figures = ({"skill": torch.zeros(4)}, {"skill": after}, UNITS, {"nats per token": 1.0})
    (joined,) = compare(*figures, level=0.05, strata={"skill": ["a", "a", "b", "c"]})
    error = ((0.5 + 8.0) / 2 / 4) ** 0.5
    assert joined.upper == pytest.approx(3.75 + 2.919986 * error, rel=1e-6)  # 2 degrees of freedom.
    (whole,) = compare(*figures, level=0.05, strata={"skill": ["a", "a", "a", "c"]})
    assert whole == compare(*figures, level=0.05)[0]


def test_a_stratified_bound_passes_at_the_margin_at_most_as_often_as_its_level_says() -> None:
    rng, kinds = torch.Generator().manual_seed(13), {"skill": [str(row % 10) for row in range(60)]}
    shift = torch.linspace(-1, 1, 10).repeat(6)  # Of each kind; the mean is 0.
    passed = sum(
        compare(
            {"skill": torch.zeros(60)},
            {"skill": 0.05 + shift + 0.2 * torch.randn(60, generator=rng)},
            UNITS,
            {"nats per token": 0.05},
            level=0.05,
            strata=kinds,
        )[0].passed
        for _ in range(1_000)
    )
    assert stats.binomtest(passed, 1_000, 0.05).pvalue > 1e-6


@given(
    values=st.lists(st.floats(-10, 10), min_size=2, max_size=20),
    shift=st.floats(-1, 1),
)
def test_the_same_shift_on_every_item_is_the_drop_exactly(values: list[float], shift: float) -> None:
    before = torch.tensor(values, dtype=torch.float64)
    leg = one_leg(before, before + shift)
    assert leg.drop == pytest.approx(shift, abs=1e-12)
    assert leg.upper == pytest.approx(shift, abs=1e-9)
    assert leg.passed == (leg.upper < 0.05)


def test_every_leg_must_hold() -> None:
    same, worse = torch.zeros(4), torch.full((4,), 1.0)
    legs = compare(
        {"a": same, "b": same},
        {"a": same, "b": worse},
        {"a": "nats per token", "b": "nats per token"},
        {"nats per token": 0.05},
        level=0.05,
    )
    assert [leg.passed for leg in legs] == [True, False]
    assert [leg.leg for leg in legs] == ["a", "b"]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"a": torch.zeros(3)}, {"b": torch.zeros(3)}, "base and candidate were probed on different legs"),
        (
            {"a": torch.zeros(3)},
            {"a": torch.tensor([0.0, torch.nan, 0.0])},
            "one that is not finite; nothing is admitted",
        ),
        (
            {"a": torch.zeros(3)},
            {"a": torch.tensor([0.0, torch.inf, 0.0])},
            "one that is not finite; nothing is admitted",
        ),
        ({"a": torch.zeros(1)}, {"a": torch.zeros(1)}, "leg a has 1 paired scores"),
        ({"a": torch.zeros(0)}, {"a": torch.zeros(0)}, "leg a has 0 paired scores"),
        ({"a": torch.zeros(3)}, {"a": torch.zeros(1)}, "leg a has 3 scores before and 1 after; probe both again"),
        ({"a": torch.zeros(3)}, {"a": torch.zeros(4)}, "leg a has 3 scores before and 4 after; probe both again"),
    ],
)
def test_scores_that_cannot_be_paired_admit_nothing(
    before: dict[str, Tensor], after: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ProbeError) as refused:
        compare(before, after, {"a": "nats per token"}, MARGINS, level=0.05)
    assert message in str(refused.value)
