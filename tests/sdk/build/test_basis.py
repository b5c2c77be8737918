"""A pack is learned from public people on a tiny base, and goes on where an interrupted build was."""

from pathlib import Path

import pytest
import torch

from personalize.learner import Base
from personalize.pack import DomainPack
from sdk.build import basis as module
from sdk.build.basis import learn_domain, pack_key
from sdk.build.worked import Worked
from sdk.device.night import base_of
from sdk.errors import BasisError
from tests.tiny import SENTENCES, tiny_bundle

FEW = {f"person {row}": [("say", f"{text} {row}")] * 4 for row in range(5) for text in SENTENCES[:1]}
PEOPLE = {f"person {row}": [("say", f"{SENTENCES[row % 4]} {row}") for _ in range(12)] for row in range(6)}


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return base_of(tiny_bundle(tmp_path))


def learned(base: Base, worked: Worked | None = None) -> DomainPack:
    return learn_domain(base, PEOPLE, max_tokens=16, directions=5, worked=worked)


def test_a_pack_is_learned_from_public_people_and_holds_what_a_device_reads_back(base: Base, tmp_path: Path) -> None:
    pack = learned(base)
    pack.save(tmp_path / "pack")
    read = DomainPack.load(tmp_path / "pack", base_digest=base.digest)
    assert read.facts["people"] == 6
    assert 0 < len(pack.basis) <= 5
    for site, directions in pack.basis.directions.items():
        torch.testing.assert_close(read.basis.directions[site], directions, rtol=1e-3, atol=1e-9)


def test_only_the_upper_layers_have_directions(base: Base) -> None:
    layers = {site.split(".")[2] for site in learned(base).basis.directions}
    assert layers == {"2", "3"}


class Interrupted(Exception):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("phase", ["learn the domain", "compare people"])
def test_an_interrupted_build_goes_on_and_ends_at_the_same_pack(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    monkeypatch.setattr(module, "KEPT_EVERY_SECONDS", 0.0)
    whole, told = learned(base), []

    def stop(what: str, done: int, total: int) -> None:
        told.append(what)
        if what == phase and done == 3:
            raise Interrupted

    worked = Worked(tmp_path / "half-done")
    with pytest.raises(Interrupted):
        learn_domain(base, PEOPLE, max_tokens=16, directions=5, worked=worked, progress=stop)
    told.clear()
    again = learn_domain(
        base, PEOPLE, max_tokens=16, directions=5, worked=worked, progress=lambda what, done, total: told.append(what)
    )
    assert told.count("learn the domain") < (1 if phase == "compare people" else 6)
    for site in whole.start.b:
        assert torch.equal(again.start.b[site], whole.start.b[site])
    for site in whole.basis.directions:
        assert torch.equal(again.basis.directions[site], whole.basis.directions[site])


def test_damaged_half_done_work_is_made_again(base: Base, tmp_path: Path) -> None:
    worked = Worked(tmp_path / "half-done")
    whole = learned(base, worked)
    for path in (tmp_path / "half-done").iterdir():
        path.write_bytes(path.read_bytes()[:20])
    again = learned(base, worked)
    for site in whole.start.b:
        assert torch.equal(again.start.b[site], whole.start.b[site])
    worked.clear()
    assert not (tmp_path / "half-done").exists()


def test_too_few_people_are_refused(base: Base) -> None:
    with pytest.raises(BasisError, match="0 public people"):
        learn_domain(base, FEW, max_tokens=16)


def test_other_people_make_another_key(base: Base) -> None:
    assert pack_key(base, FEW) == pack_key(base, dict(reversed(FEW.items())))
    assert pack_key(base, FEW) != pack_key(base, {**FEW, "one more": [("say", "so")]})
    assert pack_key(base, FEW) != pack_key(base, FEW, passes=2)
