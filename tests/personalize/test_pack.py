"""A pack is written, read, and refused; what is stored is what the maker measured with."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from personalize import pack as module
from personalize.adapter import AdapterSpec, fresh
from personalize.errors import PackError
from personalize.pack import DomainPack, quantised
from personalize.trainable import Basis
from tests.tiny import tiny_model

DIGEST = "sha256:base"


def made(*, directions: int = 6, size: float = 1e-6) -> DomainPack:
    """Directions as small as whitened ones are: a fp16 number could not hold them."""
    start = fresh(tiny_model(), AdapterSpec(layers=(2, 3), rank=4), fits_base=DIGEST)
    generator = torch.Generator().manual_seed(0)
    found = {site: size * torch.randn(directions, *b.shape, generator=generator) for site, b in start.b.items()}
    variance = torch.linspace(1, 0.1, directions)
    return DomainPack(start=start, basis=Basis(directions=found, variance=variance), facts={"people": 9})


def test_a_stored_direction_points_where_it_did(tmp_path: Path) -> None:
    pack = made()
    pack.save(tmp_path / "pack")
    read = DomainPack.load(tmp_path / "pack", base_digest=DIGEST)
    assert read.facts == {"people": 9}
    assert torch.equal(read.basis.variance, pack.basis.variance)
    for site, value in pack.basis.directions.items():
        alike = torch.nn.functional.cosine_similarity(read.basis.directions[site].flatten(1), value.flatten(1))
        assert float(alike.min()) > 0.99


def test_one_scale_for_all_would_lose_the_small_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP", 2**20)
    value = next(iter(made().basis.directions.values()))
    value[:, 0] *= 1000
    found = quantised(Basis(directions={"site": value}, variance=torch.ones(6))).directions["site"]
    alike = torch.nn.functional.cosine_similarity(found[:, 1:].flatten(1), value[:, 1:].flatten(1))
    assert float(alike.min()) < 0.99


def test_storing_what_was_stored_changes_nothing() -> None:
    once = quantised(made().basis)
    twice = quantised(once)
    for site, value in once.directions.items():
        torch.testing.assert_close(twice.directions[site], value, rtol=2e-3, atol=0)


def test_four_bits_a_number(tmp_path: Path) -> None:
    pack = made(directions=64)
    pack.save(tmp_path / "pack")
    numbers = 64 * sum(value[0].numel() for value in pack.basis.directions.values())
    assert (tmp_path / "pack" / "basis.safetensors").stat().st_size < 0.8 * numbers


def test_the_strongest_directions_come_first() -> None:
    few = made().first(2)
    assert len(few.basis) == 2
    assert torch.equal(few.basis.variance, made().basis.variance[:2])


def test_a_pack_of_another_base_is_refused(tmp_path: Path) -> None:
    made().save(tmp_path / "pack")
    with pytest.raises(PackError, match="learn it again"):
        DomainPack.load(tmp_path / "pack", base_digest="sha256:other")


@pytest.mark.parametrize("damage", ["truncated", "absent", "format", "card", "variance", "fewer", "wide"])
def test_a_damaged_pack_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "pack"
    made().save(folder)
    tensors, card = folder / "basis.safetensors", folder / "basis.json"
    stored = load_file(tensors)
    site = next(name for name in stored if name.endswith(".codes"))
    if damage == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-9])
    elif damage == "absent":
        tensors.unlink()
    elif damage == "format":
        card.write_text(json.dumps(json.loads(card.read_text()) | {"format": "basis/9"}))
    elif damage == "card":
        card.write_text("[]")
    elif damage == "variance":
        save_file(stored | {"variance": torch.zeros(6)}, tensors)
    elif damage == "fewer":
        save_file(stored | {"variance": torch.ones(5)}, tensors)
    else:
        save_file(stored | {site: torch.cat([stored[site], stored[site]], dim=1)}, tensors)
    with pytest.raises(PackError):
        DomainPack.load(folder, base_digest=DIGEST)
