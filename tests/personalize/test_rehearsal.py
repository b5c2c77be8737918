"""Public texts in, rehearsal out: an order that knows nothing of private records."""

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalize.errors import TrainingError
from personalize.forward import encode
from personalize.plan import LEAST_ANCHORS, Mix, NightPlan
from personalize.rehearsal import anchors, mixed, prompts
from personalize.written import Written
from tests.tiny import SENTENCES, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
ROWS: list[dict[str, Any]] = [
    {"format": "rehearsal/1", "id": f"r{row}", "prompt": "say", "answer": f"{SENTENCES[row % 4]} {row}"}
    for row in range(12)
]


def test_texts_are_encoded_as_records_are() -> None:
    made = anchors(ROWS, TOKENIZER, count=12)
    wanted = {encode(TOKENIZER, row["prompt"], row["answer"]) for row in ROWS}
    assert set(made) == wanted
    assert len(made) == 12


def test_the_draw_depends_on_the_seed_only() -> None:
    assert anchors(ROWS, TOKENIZER, count=5, seed=3) == anchors(iter(ROWS), TOKENIZER, count=5, seed=3)
    assert anchors(ROWS, TOKENIZER, count=5, seed=3) != anchors(ROWS, TOKENIZER, count=5, seed=4)


@pytest.mark.parametrize(("count", "made"), [(0, 0), (5, 5), (12, 12), (100, 12)])
def test_no_more_are_drawn_than_asked_for_or_there_are(count: int, made: int) -> None:
    drawn = anchors(ROWS, TOKENIZER, count=count)
    assert len(drawn) == len(set(drawn)) == made


def test_the_rows_are_left_as_they_were() -> None:
    rows = list(ROWS)
    anchors(rows, TOKENIZER, count=3, seed=1)
    assert rows == ROWS


def test_a_base_without_rehearsal_texts_has_nothing_to_rehearse() -> None:
    assert anchors([], TOKENIZER, count=5) == []


@pytest.mark.parametrize("change", [{"format": "rehearsal/2"}, {"format": None}])
def test_a_text_of_another_format_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(
        TrainingError, match=r"rehearsal text r0 has format .*, not rehearsal/1, or lacks a field; update limbeck"
    ):
        anchors([{**ROWS[0], **change}, *ROWS[1:]], TOKENIZER, count=1)


@pytest.mark.parametrize("field", ["prompt", "answer", "format"])
def test_a_text_without_a_field_is_refused(field: str) -> None:
    lacking = {name: value for name, value in ROWS[0].items() if name != field}
    with pytest.raises(TrainingError) as refused:
        anchors([lacking], TOKENIZER, count=1)
    assert "\n" not in str(refused.value)


# A mix of anchors and generated texts

WRITTEN = [
    Written(prompt="say", answer=f"{writer} wrote {row}", writer=writer)
    for writer in ("base", "night-1")
    for row in range(9)
]


def writers_of(mix: Mix, count: int, written: list[Written] = WRITTEN, seed: int = 0) -> dict[str, int]:
    """How many texts of a mix came from whom."""
    who = {encode(TOKENIZER, text.prompt, text.answer): text.writer for text in written}
    made = [who.get(record, "anchor") for record in mixed(mix, ROWS, written, TOKENIZER, count=count, seed=seed)]
    return {writer: made.count(writer) for writer in set(made)}


def test_a_mix_holds_what_its_shares_say() -> None:
    assert writers_of(Mix(anchors=0.5, by_base=0.25, by_adapter=0.25), 12) == {"anchor": 6, "base": 3, "night-1": 3}
    assert writers_of(Mix(), 12) == {"anchor": 12}


def test_anchors_stand_in_for_texts_that_are_not_there() -> None:
    mix = Mix(anchors=0.25, by_base=0.25, by_adapter=0.5)
    assert writers_of(mix, 12, [text for text in WRITTEN if text.writer == "base"]) == {"anchor": 9, "base": 3}
    assert writers_of(mix, 12, []) == {"anchor": 12}


def test_a_plain_mix_is_the_draw_of_anchors_that_it_always_was() -> None:
    assert set(mixed(Mix(), ROWS, WRITTEN, TOKENIZER, count=5, seed=3)) == set(
        anchors(ROWS, TOKENIZER, count=5, seed=3)
    )


def test_a_mix_depends_on_the_seed_only_and_steps_see_all_of_it() -> None:
    mix = Mix(anchors=0.5, by_base=0.5)
    first = mixed(mix, ROWS, WRITTEN, TOKENIZER, count=12, seed=1)
    assert first == mixed(mix, ROWS, WRITTEN, TOKENIZER, count=12, seed=1)
    assert first != mixed(mix, ROWS, WRITTEN, TOKENIZER, count=12, seed=2)
    halves = [set(first[:6]), set(first[6:])]
    assert all(half & set(anchors(ROWS, TOKENIZER, count=12)) for half in halves)


@given(total=st.integers(0, 200), base=st.integers(0, 75), adapter=st.integers(0, 75))
def test_anchors_never_fall_below_their_least_share(total: int, base: int, adapter: int) -> None:
    if base + adapter > 75:
        with pytest.raises(ValueError, match=r"anchors must be at least 0\.25 of the mix|in \[0, 1\]"):
            Mix(anchors=1 - (base + adapter) / 100, by_base=base / 100, by_adapter=adapter / 100)
        return
    mix = Mix(anchors=1 - (base + adapter) / 100, by_base=base / 100, by_adapter=adapter / 100)
    assert total - sum(mix.counts(total)) >= LEAST_ANCHORS * total - 1e-6


@pytest.mark.parametrize(
    "shares", [{"anchors": 0.9}, {"by_base": 0.5}, {"anchors": 1.5, "by_base": -0.5}, {"anchors": float("nan")}]
)
def test_shares_that_are_no_mix_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        Mix(**shares)


def test_the_mix_is_part_of_the_plan_that_the_ledger_binds() -> None:
    other = NightPlan(mix=Mix(anchors=0.5, by_adapter=0.5))
    assert other.digest() != NightPlan().digest() != NightPlan(rehearsal_kl=0.1).digest()
    assert other.to_dict()["mix"] == {"anchors": 0.5, "by_base": 0.0, "by_adapter": 0.5}


def test_what_a_model_wrote_is_never_taken_for_an_anchor() -> None:
    """A row of another form is refused, so nothing that was generated gets into the anchors by being appended there."""
    for text in WRITTEN[:1] + WRITTEN[-1:]:
        with pytest.raises(TrainingError, match="not rehearsal/1"):
            anchors([*ROWS, {"id": "w", **asdict(text)}], TOKENIZER, count=1)


def test_a_mixing_that_leaves_the_anchors_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mix, "counts", lambda mix, total: (total // 2, total // 2))
    with pytest.raises(AssertionError):
        test_a_mix_holds_what_its_shares_say()


def test_prompts_are_public_ones_each_once() -> None:
    rows = [{**row, "prompt": f"say {index % 4}" if index else ""} for index, row in enumerate(ROWS)]
    assert sorted(prompts(rows, count=100)) == ["say 0", "say 1", "say 2", "say 3"]
    assert prompts(rows, count=2, seed=1) == prompts(reversed(rows), count=2, seed=1)
    assert len({tuple(prompts(rows, count=4, seed=seed)) for seed in range(8)}) > 1
