"""Rated answers in, a calibration that separates and holds its risk out."""

from random import Random

import pytest

from sdk.confidence import Calibration, Evidence, Rated, calibrated
from sdk.confidence.calibration import MAX_BYTES, auroc
from sdk.errors import RouterError


def rated(count: int, seed: int = 0) -> list[Rated]:
    """Answers whose log-probability tells, with noise, whether they are right."""
    rng = Random(seed)
    made = []
    for _ in range(count):
        right = rng.random() < 0.8
        mean = -0.2 - rng.random() * (0.5 if right else 2.5)
        evidence = Evidence(
            tokens=10, least=2 * mean, tenth=1.5 * mean, mean=mean, margin=-1 / mean, least_margin=0.5, entropy=-mean,
            most_entropy=-2 * mean,
        )  # fmt: skip
        made.append(Rated(evidence=evidence, right=right, kind="reply"))
    return made


def test_a_calibration_keeps_most_answers_within_its_risk() -> None:
    made = calibrated(rated(1000), base_digest="sha256:x", risk=0.05)
    report = made.report
    assert report["checked"] == 250
    assert report["kept"] > 0.7 * report["checked"]
    assert report["wrong_and_kept"] <= 0.05 * report["checked"] + 3 * (0.05 * 0.95 * report["checked"]) ** 0.5
    assert report["auroc"] > 0.85
    assert report["calibration_error"] < 0.1
    assert report["kinds"] == {"reply": {"checked": 250, "right": report["right"], "kept": report["kept"]}}


def test_self_agreement_is_weighed_where_every_answer_has_it() -> None:
    with_it = [
        Rated(evidence=Evidence.from_dict(one.evidence.to_dict() | {"agreement": float(one.right)}), right=one.right)
        for one in rated(200)
    ]
    assert calibrated(with_it, base_digest="x").head.features[-1] == "self-agreement"
    assert calibrated([*with_it, *rated(1)], base_digest="x").head.features[-1] != "self-agreement"


def test_too_few_answers_are_refused() -> None:
    with pytest.raises(RouterError, match="59 answers cannot calibrate"):
        calibrated(rated(59), base_digest="x")


def test_a_calibration_survives_its_file() -> None:
    made = calibrated(rated(100), base_digest="sha256:x")
    assert Calibration.parse(made.to_json()) == made


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"\xff", b"{}", b'{"format": "router/2"}', b"[" * 100_000, b" " * (MAX_BYTES + 1),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(RouterError) as refused:
        Calibration.parse(content)
    assert "\n" not in str(refused.value)


def test_a_threshold_out_of_range_is_refused() -> None:
    made = calibrated(rated(100), base_digest="x")
    before = f'"threshold": {made.threshold}'.encode()
    with pytest.raises(RouterError, match="out of range"):
        Calibration.parse(made.to_json().replace(before, b'"threshold": 1.5'))


def test_auroc_by_hand() -> None:
    assert auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75
    assert auroc([1, 1], [True, False]) == 0.5
    assert auroc([1.0], [True]) is None
