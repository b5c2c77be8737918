"""Noise and coins come from the operating system, with the right law."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from privacy import noise
from tests.checks import NEVER
from tests.forked import needs_fork, run_forked


def bytes_of(value: int) -> Callable[[int], bytes]:
    return lambda count: bytes([value]) * count


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 5), (2, 3, 4)])
def test_noise_has_the_shape_asked_for_in_double_precision(shape: tuple[int, ...]) -> None:
    drawn = noise.gaussian(shape)
    assert drawn.shape == shape
    assert drawn.dtype == torch.float64


def test_noise_is_standard_normal() -> None:
    drawn = noise.gaussian((200_001,)).numpy()
    assert NEVER < stats.chi2.cdf(float((drawn**2).sum()), df=drawn.size) < 1 - NEVER
    assert abs(drawn.mean()) < 6.2 / drawn.size**0.5
    assert stats.kstest(drawn, "norm").pvalue > NEVER
    assert abs(stats.kurtosis(drawn)) < 6.2 * (24 / drawn.size) ** 0.5


def test_neighbouring_and_paired_numbers_are_independent() -> None:
    drawn = noise.gaussian((200_000,)).numpy()
    halves = drawn[:100_000], drawn[100_000:]  # The two outputs of one Box-Muller draw.
    for one, other in (halves, (drawn[1:], drawn[:-1])):
        for left, right in ((one, other), (one**2, other**2)):
            assert abs(np.corrcoef(left, right)[0, 1]) < 6.2 / len(one) ** 0.5


def test_no_seed_repeats_the_noise() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        drawn.append((noise.gaussian((8,)), noise.coins(64, 0.5)))
    assert not torch.equal(drawn[0][0], drawn[1][0])
    assert drawn[0][1] != drawn[1][1]


def test_the_operating_system_is_the_only_source(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for _ in range(2):
        generator = np.random.default_rng(7)  # Stands for a system that repeats itself: then all must repeat.
        monkeypatch.setattr(os, "urandom", generator.bytes)
        drawn.append((noise.gaussian((8,)), noise.coins(64, 0.5)))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert drawn[0][1] == drawn[1][1]


def test_each_draw_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[bytes] = []

    def noted(count: int, _real: Callable[[int], bytes] = os.urandom) -> bytes:
        keys.append(_real(count))
        return keys[-1]

    monkeypatch.setattr(os, "urandom", noted)
    noise.gaussian((3,))
    noise.coins(3, 0.5)
    assert len(set(keys)) == len(keys) > 1
    assert {len(key) for key in keys} == {32}


@needs_fork
def test_a_forked_process_does_not_repeat_its_parents_noise(tmp_path: Path) -> None:
    noise.gaussian((4,))
    assert run_forked(lambda: torch.save(noise.gaussian((4,)), tmp_path / "theirs")) == 0
    assert not torch.equal(torch.load(tmp_path / "theirs", weights_only=True), noise.gaussian((4,)))


@pytest.mark.parametrize("value", [0x00, 0xFF])
def test_the_rarest_bytes_still_make_finite_noise(monkeypatch: pytest.MonkeyPatch, value: int) -> None:
    monkeypatch.setattr(noise, "_random_bytes", bytes_of(value))
    assert noise.gaussian((9,)).isfinite().all()


def test_a_certain_coin_takes_all_and_needs_no_randomness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: pytest.fail("asked for randomness"))
    assert noise.coins(5, 1.0) == [0, 1, 2, 3, 4]


def test_coins_are_ascending_indices_each_at_most_once() -> None:
    drawn = noise.coins(1_000, 0.3)
    assert drawn == sorted(set(drawn))
    assert 0 <= drawn[0] <= drawn[-1] < 1_000
    assert noise.coins(0, 0.5) == []


@pytest.mark.parametrize("probability", [0.001, 0.05, 0.5, 0.999])
def test_a_coin_comes_up_with_its_probability(probability: float) -> None:
    count = len(noise.coins(200_000, probability))
    assert stats.binomtest(count, 200_000, probability).pvalue > NEVER


def test_a_coin_rarer_than_the_random_bits_never_comes_up_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_random_bytes", bytes_of(0))
    assert noise.coins(4, 2.0**-54) == []
    assert noise.coins(4, 2.0**-53) == [0, 1, 2, 3]
