"""Weighted sums of adapters: exact where they can be, and honest about what a smaller rank loses."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from torch import Tensor

from personalize.adapter import Adapter, AdapterSpec, attached, fresh
from personalize.errors import AdapterError
from personalize.merge import MAX_WEIGHT, merge
from tests.nights import DIGEST, SPEC, warm_adapter
from tests.tiny import tiny_model

MODEL = tiny_model().requires_grad_(False)
IDS = torch.arange(3, 60).view(1, -1)


def other_frame(seed: int, rank: int = 3, size: float = 0.3) -> Adapter:
    """An adapter whose A is its own, as the kind lora leaves it."""
    adapter, generator = warm_adapter(MODEL, replace(SPEC, rank=rank), size=size, seed=seed), torch.Generator()
    generator.manual_seed(100 + seed)
    a = {site: torch.randn(value.shape, generator=generator) for site, value in adapter.a.items()}
    return replace(adapter, a=a, kind="lora")


def change(adapter: Adapter, site: str) -> Tensor:
    """B A of a site in double precision, (out, in)."""
    return adapter.b[site].double() @ adapter.a[site].double()


def wanted(parts: list[tuple[Adapter, float]], site: str) -> Tensor:
    """The definition: sum of w B A, (out, in)."""
    total = torch.zeros_like(change(parts[0][0], site))
    for adapter, weight in parts:
        total += weight * change(adapter, site)
    return total


@given(weights=st.lists(st.floats(-MAX_WEIGHT, MAX_WEIGHT), min_size=1, max_size=3))
def test_adapters_on_one_frame_sum_exactly_at_their_rank(weights: list[float]) -> None:
    parts = [(warm_adapter(MODEL, seed=seed), weight) for seed, weight in enumerate(weights)]
    merged = merge(parts, rank=SPEC.rank)
    assert (merged.lost, merged.adapter.spec, merged.adapter.kind) == (0.0, SPEC, "frozen-a")
    for site in merged.adapter.a:
        torch.testing.assert_close(change(merged.adapter, site), wanted(parts, site), atol=1e-5, rtol=1e-5)


@given(weights=st.lists(st.floats(-MAX_WEIGHT, MAX_WEIGHT), min_size=2, max_size=3))
def test_adapters_on_frames_of_their_own_sum_exactly_side_by_side(weights: list[float]) -> None:
    parts = [(other_frame(seed, rank=2 + seed), weight) for seed, weight in enumerate(weights)]
    merged = merge(parts)
    assert merged.lost == 0.0
    assert merged.adapter.spec.rank == sum(adapter.spec.rank for adapter, _ in parts)
    for site in merged.adapter.a:
        torch.testing.assert_close(change(merged.adapter, site), wanted(parts, site), atol=1e-5, rtol=1e-5)


def test_a_smaller_rank_is_the_best_of_that_rank_and_its_loss_is_told() -> None:
    parts = [(other_frame(1), 0.7), (other_frame(2), 0.3)]
    merged, missed, total = merge(parts, rank=3), 0.0, 0.0
    for site in merged.adapter.a:
        sizes = torch.linalg.svdvals(wanted(parts, site))  # Eckart and Young: what rank 3 must leave behind.
        error = change(merged.adapter, site) - wanted(parts, site)
        assert float(error.square().sum()) == pytest.approx(float(sizes[3:].square().sum()), rel=1e-4)
        missed, total = missed + float(error.square().sum()), total + float(sizes.square().sum())
    assert merged.lost == pytest.approx(missed / total, rel=1e-4)
    assert 0.05 < merged.lost < 0.6
    assert (merged.adapter.spec.rank, merged.adapter.kind) == (3, "lora")


def test_a_rank_that_holds_the_sum_loses_nothing() -> None:
    parts = [(other_frame(1), 1.0), (other_frame(2), -0.5)]
    assert merge(parts, rank=6).lost == 0.0
    assert merge([(other_frame(1), 0.0), (other_frame(2), 0.0)], rank=1).lost == 0.0


def test_a_cut_that_keeps_the_weakest_directions_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.linalg.svd

    def upside_down(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, sizes, v = real(matrix)
        return u.flip(1), sizes.flip(0), v.flip(0)

    monkeypatch.setattr(torch.linalg, "svd", upside_down)
    with pytest.raises(AssertionError):
        test_a_smaller_rank_is_the_best_of_that_rank_and_its_loss_is_told()


def test_a_merge_of_one_adapter_at_weight_one_is_that_adapter() -> None:
    adapter = warm_adapter(MODEL)
    merged = merge([(adapter, 1.0)]).adapter
    assert all(torch.equal(merged.b[site], adapter.b[site]) for site in adapter.b)
    assert merged.kind == adapter.kind


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("rank", [None, 3])
def test_peft_loads_a_merge_with_equal_logits(rank: int | None, tmp_path: Path) -> None:
    merged = merge([(other_frame(1), 0.6), (other_frame(2), 0.4)], rank=rank).adapter
    merged.save(tmp_path / "one")
    theirs = PeftModel.from_pretrained(tiny_model(), tmp_path / "one").eval()
    with torch.no_grad(), attached(MODEL, merged):
        torch.testing.assert_close(theirs(IDS).logits, MODEL(IDS).logits, rtol=0, atol=1e-4)
    theirs.unload()


def test_parts_are_left_as_they_are() -> None:
    one, other = warm_adapter(MODEL, seed=1), warm_adapter(MODEL, seed=2)
    before = {site: value.clone() for site, value in one.b.items()}
    merge([(one, 0.5), (other, 0.5)])
    assert all(torch.equal(one.b[site], before[site]) for site in before)


@pytest.mark.parametrize(
    ("parts", "rank", "line"),
    [
        ([], None, "a merge needs at least one adapter"),
        ([(warm_adapter(MODEL), math.nan)], None, "weight nan is out of range"),
        ([(warm_adapter(MODEL), 4.5)], None, "weight 4.5 is out of range; choose one between -4 and 4"),
        ([(warm_adapter(MODEL), 1.0)], 0, "rank 0 is below 1"),
        (
            [(warm_adapter(MODEL), 1.0), (fresh(MODEL, SPEC, fits_base="sha256:" + "0" * 64), 1.0)],
            None,
            "learned on different bases; migrate them to one base first",
        ),
        (
            [(warm_adapter(MODEL), 1.0), (fresh(MODEL, AdapterSpec(layers=(3,), rank=3), fits_base=DIGEST), 1.0)],
            None,
            "different layers or maps",
        ),
    ],
)
def test_what_cannot_be_summed_is_refused_in_one_line(
    parts: list[tuple[Adapter, float]], rank: int | None, line: str
) -> None:
    with pytest.raises(AdapterError, match=line):
        merge(parts, rank=rank)
