"""The page is self-contained, escapes what files say, shows every figure or its reason, and fits every screen."""

import html
import re
from pathlib import Path

import pytest

from sdk.build.evaluate.card import Leg, Scorecard
from sdk.build.evaluate.page import render, write_scorecard_page
from sdk.build.evaluate.wording import rows, shown
from sdk.errors import EvaluationError
from tests.browser import needs_browser, seen
from tests.sdk.build.evaluate.cards import card, shares

EVIL = '<script>alert("x")</script>'


def words(page: str) -> str:
    body = re.sub(r"<(style|title)\b.*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(body).replace("\u202f", " "))


def pages() -> list[tuple[str, Scorecard, Scorecard | None]]:
    endless = "a_model_with_one_endless_name_" * 4
    return [
        ("one", card(), None),
        ("two", card(right=90), card("teacher", right=70)),
        ("endless", card(endless), card(endless, piqa=Leg(reason=f"{endless} is not there"))),
        ("nothing", Scorecard(model=card().model, quick=True, legs={"text": Leg(reason="no text")}), None),
    ]


@pytest.mark.parametrize(("name", "mine", "other"), pages())
def test_the_page_loads_nothing(name: str, mine: Scorecard, other: Scorecard | None) -> None:
    page = render(mine, other)
    assert not re.search(r"<script|<link[^>]+href=\"(?!data:)|src=|@import|url\(|https?://", page)
    assert "default-src 'none'" in page


def test_figures_stand_with_their_intervals_and_reasons() -> None:
    said = words(render(card()))
    assert "80.0 % 71.1 to 86.7" in said  # Wilson's interval of 80 in 100.
    assert "Closeness to the teacher: no teacher; name one with --teacher" in said
    assert "kind 0" in said
    assert "A quick look" not in said


def test_two_cards_stand_side_by_side_with_a_verdict() -> None:
    said = words(render(card(right=90), card("teacher", right=70)))
    assert "student beside teacher: clearly better in" in said
    assert "+20.0 points" in said
    assert "better" in said


def test_texts_from_files_are_escaped() -> None:
    evil = card(EVIL, piqa=Leg(reason=EVIL), blimp=shares(1, 3))
    assert EVIL not in render(evil, card(EVIL))


def test_the_page_is_written_whole_or_refused(tmp_path: Path) -> None:
    write_scorecard_page(tmp_path / "page.html", card())
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == render(card())
    with pytest.raises(EvaluationError, match="cannot write the page"):
        write_scorecard_page(tmp_path / "nowhere" / "page.html", card())


def test_numbers_are_written_as_people_read_them() -> None:
    assert shown("blimp.accuracy", 0.8) == "80.0\u202f%"
    assert shown("blimp.accuracy", 0.02, signed=True) == "+2.0\u202fpoints"
    assert shown("text.bits_per_byte", -0.02, signed=True) == "−0.020\u202fbits"
    assert shown("cost.answer_ms", None) == "–"


def test_a_table_has_a_row_for_each_figure_and_names_each_leg_once() -> None:
    made = rows(card(right=90), card("teacher", right=70))
    assert [row[0] for row in made if row[0]] == [
        "Held-out text", "Assistant requests (SNIPS)", "Grammar (BLiMP)", "Common sense (PIQA)",
        "Size, speed and memory", "Energy", "Experience density",
    ]  # fmt: skip
    assert {len(row) for row in made} == {9}


@needs_browser
@pytest.mark.parametrize(("name", "mine", "other"), pages())
def test_the_page_fits_every_screen(tmp_path: Path, name: str, mine: Scorecard, other: Scorecard | None) -> None:
    for width, found in seen(tmp_path, render(mine, other), [360, 768, 1280]).items():
        assert found["overflow"] <= 0, f"{name} at {width}: {found['wide'][:5]}"
