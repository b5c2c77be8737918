"""The router keeps what is sure enough, says why, and keeps everything where nothing was calibrated."""

import json
from pathlib import Path

import pytest

from sdk.bundle import write_manifest
from sdk.confidence import Calibration, Evidence, Rated, calibrated
from sdk.device.router import Router
from sdk.errors import BundleError, RouterError
from tests.sdk.confidence.test_calibration import rated
from tests.tiny import tiny_bundle

SURE = {
    "tokens": 10, "least": -0.4, "tenth": -0.3, "mean": -0.2, "margin": 5.0, "least_margin": 0.5, "entropy": 0.2,
    "most_entropy": 0.4,
}  # fmt: skip
UNSURE = {
    "tokens": 10, "least": -5.0, "tenth": -4.0, "mean": -2.5, "margin": 0.4, "least_margin": 0.5, "entropy": 2.5,
    "most_entropy": 5.0,
}  # fmt: skip


def calibration(base_digest: str = "sha256:x") -> Calibration:
    answers: list[Rated] = rated(400)
    return calibrated(answers, base_digest=base_digest)


def test_a_sure_answer_is_kept_and_an_unsure_one_is_not() -> None:
    router = Router(calibration())
    kept, handed = router.decide(Evidence(**SURE)), router.decide(Evidence(**UNSURE))  # type: ignore[arg-type]
    assert kept.local
    assert not handed.local
    assert kept.confidence > handed.confidence
    assert handed.threshold is not None
    assert "is not above" in handed.reason


def test_without_a_calibration_every_answer_stays_and_the_reason_says_why() -> None:
    decision = Router.read(None).decide(Evidence(**UNSURE))  # type: ignore[arg-type]
    assert decision.local
    assert decision.threshold is None
    assert "no calibration" in decision.reason


def test_evidence_with_a_gap_is_not_kept() -> None:
    decision = Router(calibration()).decide(Evidence(**SURE | {"margin": float("nan")}))  # type: ignore[arg-type]
    assert not decision.local
    assert "without all the evidence" in decision.reason


def test_a_missing_file_keeps_everything_and_another_base_is_refused(tmp_path: Path) -> None:
    assert Router.read(tmp_path / "router.json").calibration is None
    file = tmp_path / "router.json"
    file.write_bytes(calibration("sha256:one").to_json())
    assert Router.read(file, base_digest="sha256:one").calibration is not None
    with pytest.raises(RouterError, match="rates answers of base sha256:one"):
        Router.read(file, base_digest="sha256:two")


def test_a_bundle_binds_its_router_by_the_manifest(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    assert Router.of(bundle).calibration is None
    file = bundle.folder / "router.json"
    file.write_bytes(calibration(bundle.base_digest).to_json())
    facts = {name: getattr(bundle.manifest, name) for name in ("name", "version", "base_id", "licence", "origin")}
    bundle = write_manifest(bundle.folder, **facts)
    assert Router.of(bundle, tmp_path / "home").calibration is not None
    loosened = json.loads(file.read_bytes()) | {"threshold": 0.0}
    file.write_text(json.dumps(loosened), encoding="utf-8")
    with pytest.raises(BundleError, match=r"router\.json does not match its digest"):
        Router.of(bundle)
