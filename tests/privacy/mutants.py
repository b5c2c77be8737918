"""An engine with one safeguard taken out, by name: what the audit must notice."""

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from random import SystemRandom
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from privacy import accounting, dp_sgd, noise, rdp
from privacy.audit.parts import Engine
from privacy.books import Account, Books
from privacy.dp_sgd import ClippedSum, DpSgd
from privacy.ledger import Ledger
from privacy.per_example import frozen_head_loss, take_grad_sample

__all__ = ["MUTANTS", "REQUIRED"]

Mutant = Callable[[pytest.MonkeyPatch], Engine]


# Noise


class HalfSigma(DpSgd):
    def _privatise(self, sums: list[Tensor]) -> list[Tensor]:
        whole = self.run
        self.run = replace(whole, noise_multiplier=whole.noise_multiplier / 2)
        try:
            return super()._privatise(sums)
        finally:
            self.run = whole


class NoiseForDrawnOnly(DpSgd):
    """An empty batch is released as it is."""

    def _privatise(self, sums: list[Tensor]) -> list[Tensor]:
        empty = all(float(total.detach().abs().sum()) == 0 for total in sums)
        return [torch.zeros_like(total) for total in sums] if empty else super()._privatise(sums)


class NoisePerMicrobatch(DpSgd):
    def step(self, losses_of: Any, *, microbatch: int = 16) -> list[Tensor]:
        calls = [0]

        def counted(indices: Any) -> Tensor:
            calls[0] += 1
            losses: Tensor = losses_of(indices)
            return losses

        parts = super().step(counted, microbatch=microbatch)
        std = self.run.noise_multiplier * self.run.clip_norm / self.expected_batch
        return [part + std * max(calls[0] - 1, 0) ** 0.5 * noise.gaussian(tuple(part.shape)) for part in parts]


class OneNoiseForAllParameters(DpSgd):
    def _privatise(self, sums: list[Tensor]) -> list[Tensor]:
        std = self.run.noise_multiplier * self.run.clip_norm
        draw = noise.gaussian((max(total.numel() for total in sums),))
        return [(total + std * draw[: total.numel()].view(total.shape)) / self.expected_batch for total in sums]


def no_noise(patch: pytest.MonkeyPatch) -> Engine:
    return Engine(gaussian=lambda shape: torch.zeros(shape, dtype=torch.float64))


def reused_noise(patch: pytest.MonkeyPatch) -> Engine:
    kept: dict[tuple[int, ...], Tensor] = {}
    return Engine(gaussian=lambda shape: kept.setdefault(shape, noise.gaussian(shape)))


def noise_in_turns(patch: pytest.MonkeyPatch) -> Engine:
    """Seven draws, used again and again, each time shifted by one place."""
    kept: dict[tuple[int, ...], Any] = {}
    shift = iter(range(1_000_000))

    def draw(shape: tuple[int, ...]) -> Tensor:
        turns = kept.setdefault(shape, cycle([noise.gaussian(shape) for _ in range(7)]))
        drawn: Tensor = next(turns)
        return drawn.roll(next(shift))

    return Engine(gaussian=draw)


def uniform_noise(patch: pytest.MonkeyPatch) -> Engine:
    """Of the right variance, and without any tail."""
    return Engine(gaussian=lambda shape: (noise.gaussian(shape) / 2**0.5).erf() * 3**0.5)


def seeded_noise(patch: pytest.MonkeyPatch) -> Engine:
    return Engine(gaussian=lambda shape: torch.randn(shape, dtype=torch.float64))


def seeded_noise_of_its_own(patch: pytest.MonkeyPatch) -> Engine:
    """A generator per engine, always from one seed."""

    def build(*arguments: Any, **more: Any) -> DpSgd:
        generator = torch.Generator().manual_seed(7)
        more["gaussian"] = lambda shape: torch.randn(shape, generator=generator, dtype=torch.float64)
        return DpSgd(*arguments, **more)

    return Engine(step=build)


def noise_that_a_fork_shares(patch: pytest.MonkeyPatch) -> Engine:
    """A generator that nobody seeds, and that a child process inherits."""
    generator = np.random.default_rng()
    return Engine(gaussian=lambda shape: torch.from_numpy(generator.standard_normal(shape)))


# Clip


def clip_five_times_too_wide(patch: pytest.MonkeyPatch) -> Engine:
    begin = ClippedSum.__init__
    patch.setattr(ClippedSum, "__init__", lambda self, parameters, norm: begin(self, parameters, 5 * norm))
    return Engine()


class ClippedPerParameter(DpSgd):
    def step(self, losses_of: Any, *, microbatch: int = 16) -> list[Tensor]:
        self.steps_drawn += 1
        drawn, sums = self._coins(self.records, self.run.sampling_rate), []
        for parameter in self.parameters:
            alone = ClippedSum([parameter], self.run.clip_norm)
            for start in range(0, len(drawn), microbatch):
                alone.add(losses_of(drawn[start : start + microbatch]))
                for other in self.parameters:
                    other.grad_sample = None  # type: ignore[attr-defined]
            sums += alone.sums
        return self._privatise(sums)


class ClippedAsOneBatch(DpSgd):
    """The sum is clipped, and not what each record adds to it."""

    def _privatise(self, sums: list[Tensor]) -> list[Tensor]:
        norm = torch.cat([total.flatten() for total in sums]).norm()
        return super()._privatise([total * (self.run.clip_norm / norm).clamp(max=1.0) for total in sums])

    def step(self, losses_of: Any, *, microbatch: int = 16) -> list[Tensor]:
        wide, self.run = self.run, replace(self.run, clip_norm=1e9)
        drawn = self._coins(self.records, self.run.sampling_rate)
        clipped = ClippedSum(self.parameters, self.run.clip_norm)
        for start in range(0, len(drawn), microbatch):
            clipped.add(losses_of(drawn[start : start + microbatch]))
        self.run = wide
        self.steps_drawn += 1
        return self._privatise(clipped.sums)


def pooled_loss(patch: pytest.MonkeyPatch) -> Engine:
    """A mean over all tokens of the batch, as Hugging Face's `labels=` computes it."""

    def pooled(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        tokens = (weights != 0).sum(dim=1)
        return frozen_head_loss(hidden, head, targets, weights) * tokens / tokens.sum()

    return Engine(losses=pooled)


def pooled_loss_in_the_engine(patch: pytest.MonkeyPatch) -> Engine:
    add = ClippedSum.add
    patch.setattr(
        ClippedSum, "add", lambda self, losses, units=None: add(self, losses / losses.detach().nansum(), units)
    )
    return Engine()


def clipped_per_record(patch: pytest.MonkeyPatch) -> Engine:
    """Records are clipped one by one and added up, whatever unit they belong to."""
    add = ClippedSum.add
    patch.setattr(ClippedSum, "add", lambda self, losses, units=None: add(self, losses))
    return Engine()


def clipped_per_microbatch(patch: pytest.MonkeyPatch) -> Engine:
    """What a unit has in one microbatch is clipped; it is not carried over to the next."""
    add = ClippedSum.add

    def forgetful(self: ClippedSum, losses: Tensor, units: Any = None) -> Tensor:
        norms = add(self, losses, units)
        self.close()
        self._clipped.clear()
        return norms

    patch.setattr(ClippedSum, "add", forgetful)
    return Engine()


class CoinPerRecord(DpSgd):
    """Records of one unit are drawn one by one."""

    def step(self, losses_of: Any, *, microbatch: int = 16) -> list[Tensor]:
        coins, members = self._coins, self._members
        drawn = set(coins(self.records, self.run.sampling_rate))
        kept = [[record for record in unit if record in drawn] for unit in members]
        self._coins, self._members = lambda units, rate: list(range(units)), kept
        try:
            return super().step(losses_of, microbatch=microbatch)
        finally:
            self._coins, self._members = coins, members


class CoinPerRecordThenWhole(DpSgd):
    """A unit is drawn as soon as one of its records is: far more often than was charged."""

    def step(self, losses_of: Any, *, microbatch: int = 16) -> list[Tensor]:
        coins = self._coins

        def eager(units: int, rate: float) -> list[int]:
            drawn = set(coins(self.records, rate))
            return [unit for unit in range(units) if drawn & set(self._members[unit])]

        self._coins = eager
        try:
            return super().step(losses_of, microbatch=microbatch)
        finally:
            self._coins = coins


def not_finite_let_in(patch: pytest.MonkeyPatch) -> Engine:
    """What is not finite is replaced by large numbers, and clipped."""
    take = take_grad_sample

    def tidied(parameter: Tensor) -> Tensor | None:
        found = take(parameter)
        return None if found is None else found.nan_to_num(1.0, 1e9, -1e9)

    patch.setattr(dp_sgd, "take_grad_sample", tidied)
    add = ClippedSum.add
    patch.setattr(ClippedSum, "add", lambda self, losses, units=None: add(self, losses.nan_to_num(0.0, 0.0), units))
    return Engine()


# Sampler and steps


class RealisedBatch(DpSgd):
    """Divides by the batch that was drawn."""

    def step(self, losses_of: Any, *, microbatch: int = 16) -> list[Tensor]:
        drawn = [0]

        def counted(indices: Any) -> Tensor:
            drawn[0] += len(indices)
            losses: Tensor = losses_of(indices)
            return losses

        parts = super().step(counted, microbatch=microbatch)
        return [part * self.expected_batch / max(drawn[0], 1) for part in parts]


class EndlessSteps(DpSgd):
    def step(self, losses_of: Any, *, microbatch: int = 16) -> list[Tensor]:
        self.steps_drawn = 0
        return super().step(losses_of, microbatch=microbatch)


def shuffle_for_poisson(patch: pytest.MonkeyPatch) -> Engine:
    """Batches of one size, cut from a fresh permutation each epoch."""
    waiting: list[int] = []

    def shuffled(records: int, rate: float) -> list[int]:
        size = max(1, round(rate * records))
        if len(waiting) < size:
            waiting[:] = SystemRandom().sample(range(records), records)
        batch = waiting[:size]
        del waiting[:size]
        return batch

    return Engine(coins=shuffled)


def fixed_size_for_poisson(patch: pytest.MonkeyPatch) -> Engine:
    """A fresh random batch of one size each step."""
    return Engine(coins=lambda records, rate: SystemRandom().sample(range(records), round(rate * records)))


def one_coin_for_two(patch: pytest.MonkeyPatch) -> Engine:
    """Records are drawn in pairs."""

    def pairs(records: int, rate: float) -> list[int]:
        return [index for first in noise.coins(records // 2, rate) for index in (2 * first, 2 * first + 1)]

    return Engine(coins=pairs)


def generous_coins(patch: pytest.MonkeyPatch) -> Engine:
    return Engine(coins=lambda records, rate: noise.coins(records, min(1.0, 1.2 * rate)))


def drawn_twice(patch: pytest.MonkeyPatch) -> Engine:
    return Engine(
        coins=lambda records, rate: [
            int(i) for i in np.random.default_rng().integers(records, size=int(rate * records))
        ]
    )


def seeded_coins(patch: pytest.MonkeyPatch) -> Engine:
    return Engine(coins=lambda records, rate: torch.nonzero(torch.rand(records) < rate).flatten().tolist())


# Ledger


def refund(patch: pytest.MonkeyPatch) -> Engine:
    close = Books._take_close

    def refunding(self: Books, entry: Any, facts: Any) -> None:
        close(self, entry, facts)
        if facts["outcome"] == "rejected":
            receipt = self.reservations[entry.receipt].receipt
            for name, account in self.accounts.items():
                if name.block in receipt.blocks:
                    account.curve = account.curve - accounting.rdp_curve(receipt.run)

    patch.setattr(Books, "_take_close", refunding)
    return Engine()


def refund_on_opening(patch: pytest.MonkeyPatch) -> Engine:
    """A new file whenever the ledger is opened, as when a schema change starts over."""

    def fresh(path: Any, **more: Any) -> Ledger:
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        return Ledger.open(path, **more)

    return Engine(ledger=fresh)


def dropped_charge(patch: pytest.MonkeyPatch) -> Engine:
    """A gate is let through without a charge."""
    charge = Account.charge

    def forgetful(self: Account, curve: Any, groups: Any) -> None:
        if all(mechanism.noise != 12.0 for mechanism in groups):
            charge(self, curve, groups)

    patch.setattr(Account, "charge", forgetful)
    return Engine()


def first_block_only(patch: pytest.MonkeyPatch) -> Engine:
    names = Books._names
    patch.setattr(Books, "_names", staticmethod(lambda scope, blocks, caller: names(scope, blocks[:1], caller)))
    return Engine()


def half_the_divergence(patch: pytest.MonkeyPatch) -> Engine:
    """Ledger and accountant are wrong together: only another accountant can tell."""
    laplace = rdp.laplace
    patch.setattr(rdp, "laplace", lambda scale: laplace(scale) / 2)
    return Engine()


def no_limit(patch: pytest.MonkeyPatch) -> Engine:
    from privacy import books

    patch.setattr(books, "_require_room", lambda *_: None)
    return Engine()


def of(step: type[DpSgd]) -> Mutant:
    return lambda patch: Engine(step=step)


REQUIRED: dict[str, tuple[Mutant, str]] = {
    "half sigma": (of(HalfSigma), "noise size"),
    "no noise": (no_noise, "noise size"),
    "clip times five": (clip_five_times_too_wide, "clip invariant"),
    "pooled loss": (pooled_loss, "neighbour sensitivity"),
    "shuffle for Poisson": (shuffle_for_poisson, "sampler independence"),
    "refund": (refund, "no refund"),
    "dropped charge": (dropped_charge, "composition"),
    "reused noise": (reused_noise, "noise freshness"),
    "seeded noise": (seeded_noise, "noise secrecy"),
}
"""The mutants that every audit must catch, and the leg that must."""

MUTANTS: dict[str, tuple[Mutant, str]] = REQUIRED | {
    "noise for drawn batches only": (of(NoiseForDrawnOnly), "noise size"),
    "noise per microbatch": (of(NoisePerMicrobatch), "noise size"),
    "one noise for all parameters": (of(OneNoiseForAllParameters), "noise freshness"),
    "noise in turns": (noise_in_turns, "noise freshness"),
    "uniform noise": (uniform_noise, "noise shape"),
    "noise seeded by itself": (seeded_noise_of_its_own, "noise secrecy"),
    "noise that a fork shares": (noise_that_a_fork_shares, "noise secrecy"),
    "clipped per parameter": (of(ClippedPerParameter), "clip invariant"),
    "clipped as one batch": (of(ClippedAsOneBatch), "neighbour sensitivity"),
    "pooled in the engine": (pooled_loss_in_the_engine, "neighbour sensitivity"),
    "pooled by microbatch": (pooled_loss, "microbatches"),
    "clipped per record": (clipped_per_record, "unit sensitivity"),
    "clipped per microbatch": (clipped_per_microbatch, "unit sensitivity"),
    "coin per record": (of(CoinPerRecord), "sampler units"),
    "coin per record then whole": (of(CoinPerRecordThenWhole), "sampler units"),
    "not finite let in": (not_finite_let_in, "clip invariant"),
    "realised batch": (of(RealisedBatch), "public divisor"),
    "endless steps": (of(EndlessSteps), "limited steps"),
    "fixed size for Poisson": (fixed_size_for_poisson, "sampler independence"),
    "one coin for two": (one_coin_for_two, "sampler independence"),
    "generous coins": (generous_coins, "sampler rate"),
    "drawn twice": (drawn_twice, "sampler rate"),
    "seeded coins": (seeded_coins, "sampler secrecy"),
    "refund on opening": (refund_on_opening, "no refund"),
    "first block only": (first_block_only, "composition"),
    "half the divergence": (half_the_divergence, "independent sum"),
    "no limit": (no_limit, "limits"),
}
