"""A card comes back from its file as it was, to the digits that are kept, and another format is refused."""

import json
from pathlib import Path

import pytest

from sdk.build.evaluate.card import Leg
from sdk.build.evaluate.card_file import card_fields, read_card, write_card
from sdk.build.evaluate.comparison import compare
from sdk.errors import EvaluationError
from tests.sdk.build.evaluate.cards import card


def test_a_card_comes_back_as_it_was(tmp_path: Path) -> None:
    write_card(card(), tmp_path / "card.json")
    back = read_card(tmp_path / "card.json")
    assert {name: leg.reason for name, leg in back.legs.items()} == {n: leg.reason for n, leg in card().legs.items()}
    for name, made in card().estimates().items():
        assert back.estimates()[name].value == pytest.approx(made.value, rel=1e-8)
    assert {change.verdict for change in compare(back, card())} <= {"equal", "no clear difference"}


def test_the_file_is_for_readers_too(tmp_path: Path) -> None:
    fields = card_fields(card(), items=False)
    assert fields["format"] == "scorecard/1"
    assert fields["legs"]["teacher"] == {"status": "not run", "reason": "no teacher; name one with --teacher"}
    grammar = fields["legs"]["blimp"]
    assert grammar["figures"]["accuracy"]["value"] == 0.8
    assert grammar["by_group"]["accuracy"]["kind_0"]["items"] == 34
    assert "items" not in grammar
    assert fields["density"]["quality"]["low"] < fields["density"]["quality"]["value"]
    json.dumps(fields)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no scorecard"),
        ("[]", "has format None"),
        ('{"format": "scorecard/2"}', "has format 'scorecard/2', this version reads 'scorecard/1'"),
        ('{"format": "scorecard/1"}', "is a damaged scorecard"),
        ('{"format": "scorecard/1", "model": {}, "quick": true, "legs": {"text": {"status": "done"}}}', "damaged"),
        ('{"format": "scorecard/1", "model": {}, "quick": true, "legs": {"text": 3}}', "damaged"),
    ],
)
def test_what_is_no_card_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(EvaluationError, match=said):
        read_card(tmp_path / "card.json")


def test_items_that_do_not_fit_their_scores_are_refused(tmp_path: Path) -> None:
    write_card(card(), tmp_path / "card.json")
    fields = json.loads((tmp_path / "card.json").read_text())
    fields["legs"]["blimp"]["items"]["ids"].pop()
    (tmp_path / "card.json").write_text(json.dumps(fields))
    with pytest.raises(EvaluationError, match="damaged scorecard"):
        read_card(tmp_path / "card.json")
    with pytest.raises(ValueError, match="has 1 and 1 numbers for 0 items"):
        Leg(scores={"accuracy": ((1.0,), (1.0,))})


def test_a_card_that_cannot_be_written_or_found_is_said(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot write the scorecard"):
        write_card(card(), tmp_path / "nowhere" / "card.json")
    with pytest.raises(EvaluationError, match="cannot read the scorecard"):
        read_card(tmp_path / "nowhere.json")
