"""Directions are checked on made-up people whose differences are known; the whole pack on a tiny base."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from personalize.trainable import Basis
from sdk.build import basis as module
from sdk.build.basis import DomainPack, learn_domain, pack_key
from sdk.device.night import base_of
from sdk.errors import BasisError
from tests.tiny import SENTENCES, tiny_bundle

PEOPLE, RECORDS, NUMBERS, DIFFERENCES = 40, 12, 2000, 5
PUBLIC = {f"person {row}": [("say", f"{text} {row}")] * 4 for row in range(5) for text in SENTENCES[:1]}


def crowd() -> tuple[Tensor, Tensor, list[Tensor]]:
    """People who differ along five directions of two thousand, seen through noisy records."""
    generator = torch.Generator().manual_seed(0)
    ways = 3 * torch.linalg.qr(torch.randn(NUMBERS, DIFFERENCES, generator=generator))[0].t()
    rows = [
        torch.randn(1, DIFFERENCES, generator=generator) @ ways
        + 0.5 * torch.randn(RECORDS, NUMBERS, generator=generator)
        for _ in range(PEOPLE)
    ]
    return torch.stack([row[0::2].mean(0) for row in rows]), torch.stack([row[1::2].mean(0) for row in rows]), rows


def found() -> Basis:
    return module._split_half_basis(*crowd(), {"site": torch.Size([40, 50])})


def drop_after_the_real_ones(basis: Basis) -> float:
    return float(basis.variance[DIFFERENCES - 1] / basis.variance[DIFFERENCES])


def test_as_many_directions_stand_out_as_people_differ_in() -> None:
    basis = found()
    assert drop_after_the_real_ones(basis) > 10
    assert bool((basis.variance[:-1] >= basis.variance[1:]).all())
    assert bool((basis.variance > 0).all())


def test_directions_that_judge_the_people_who_made_them_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Products, "without", lambda self, person: self)

    def flattered(self: module._Products) -> Tensor:
        agreed = (self.first @ self.turn().t()) * (self.second @ self.turn().t())
        return agreed.mean(0)

    monkeypatch.setattr(module._Products, "variance", flattered)
    assert drop_after_the_real_ones(found()) < 10


def test_a_record_moves_a_whitened_coefficient_by_about_one_unit() -> None:
    first, second, rows = crowd()
    basis = module._split_half_basis(first, second, rows, {"site": torch.Size([40, 50])})
    seen = torch.cat(rows) @ basis.directions["site"].flatten(1).t()  # (records, count)
    assert seen.square().mean().sqrt().item() == pytest.approx(1.0, rel=0.05)


def test_a_pack_is_learned_saved_and_read_again(tmp_path: Path) -> None:
    base = base_of(tiny_bundle(tmp_path))
    people = {f"person {row}": [("say", f"{text} {row}") for text in SENTENCES * 3] for row in range(5)}
    pack = learn_domain(base, people, max_tokens=16)
    pack.save(tmp_path / "pack")
    read = DomainPack.load(tmp_path / "pack", base_digest=base.digest)
    assert read.start.b.keys() == pack.start.b.keys()
    assert all(torch.equal(read.start.b[site], pack.start.b[site]) for site in pack.start.b)
    torch.testing.assert_close(read.basis.variance, pack.basis.variance)
    with pytest.raises(BasisError, match="cannot be read"):
        DomainPack.load(tmp_path / "pack", base_digest="sha256:other")
    (tmp_path / "pack" / "basis.safetensors").write_bytes(b"no")
    with pytest.raises(BasisError, match="delete it"):
        DomainPack.load(tmp_path / "pack", base_digest=base.digest)


def test_too_few_people_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BasisError, match="0 public people"):
        learn_domain(base_of(tiny_bundle(tmp_path)), PUBLIC, max_tokens=16)


def test_other_people_make_another_key(tmp_path: Path) -> None:
    base = base_of(tiny_bundle(tmp_path))
    assert pack_key(base, PUBLIC) == pack_key(base, dict(reversed(PUBLIC.items())))
    assert pack_key(base, PUBLIC) != pack_key(base, {**PUBLIC, "one more": [("say", "so")]})
