"""Steps in, the same numbers as by hand out."""

import math
from dataclasses import dataclass

import pytest

from sdk.confidence import FEATURES, Evidence, agreement


@dataclass(frozen=True)
class Told:
    log_probability: float
    margin: float = 1.0
    entropy: float = 0.5
    mask_share: float = 1.0


def test_an_answer_is_summed_up_as_by_hand() -> None:
    steps = [Told(-0.1, 3.0, 0.2), Told(-2.0, 0.5, 1.5, 0.25), Told(-0.3, 2.5, 0.4)]
    evidence = Evidence.of_steps(steps, valid=True)
    assert evidence.tokens == 3
    assert evidence.least == -2.0
    assert evidence.mean == pytest.approx(-0.8)
    assert evidence.tenth == pytest.approx(-2.0 + 0.2 * 1.7)  # Between the two smallest, a fifth of the way.
    assert evidence.margin == pytest.approx(2.0)
    assert evidence.least_margin == 0.5
    assert evidence.entropy == pytest.approx(0.7)
    assert evidence.most_entropy == 1.5
    assert evidence.mask_share == 0.25


def test_a_row_has_a_number_for_every_feature_and_says_what_is_not_known() -> None:
    row = Evidence.of_steps([Told(-0.1)]).row()
    assert len(row) == len(FEATURES)
    assert math.isnan(row[-1])
    assert all(math.isfinite(value) for value in row[:-1])


def test_an_empty_answer_looks_like_no_certainty_at_all() -> None:
    empty, poor = Evidence.of_steps([]), Evidence.of_steps([Told(-9.0, 0.1, 5.0)])
    assert empty.mean < poor.mean
    assert empty.entropy > poor.entropy


def test_evidence_survives_its_way_through_json() -> None:
    evidence = Evidence.of_steps([Told(-0.1), Told(-1.0)], valid=False, agreement=0.5)
    assert Evidence.from_dict(evidence.to_dict()) == evidence


@pytest.mark.parametrize(
    ("answer", "samples", "wanted"),
    [
        ('{"a":1,"b":2}', ['{"b":2,"a":1}', '{"a":2,"b":2}'], 0.5),
        ("see you at noon", ["See you at noon"], 1.0),
        ("see you", ["no way"], 0.0),
        ("a b", ["a c"], 0.5),
        ('{"a":', ['{"a":'], 1.0),
        ("a", [], None),
    ],
)
def test_agreement_of_samples(answer: str, samples: list[str], wanted: float | None) -> None:
    assert agreement(answer, samples) == wanted
