"""Probe items in, one number an item out, the same for the same model, however it is computed."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from personalize import probes as module
from personalize.adapter import AdapterSpec, fresh
from personalize.errors import ProbeError
from personalize.forward import Encoded, completion_losses, encode
from personalize.probes import PER_LOSS, UNITS, Probes
from personalize.retention import MARGINS
from tests.brute_force import loss_of
from tests.nights import DIGEST, SPEC, tiny_base, warm_adapter
from tests.tiny import tiny_model, tiny_tokenizer

MODEL = tiny_model(dtype=torch.float64).requires_grad_(False)
TOKENIZER = tiny_tokenizer()
ROWS: list[dict[str, Any]] = [dict(row) for row in tiny_base(probes_each=6).probes]
BARE = fresh(MODEL, SPEC, fits_base=DIGEST)


def whole_model(record: Encoded) -> float:
    return loss_of(MODEL, record, {}).item()


def test_a_loss_item_scores_the_mean_loss_of_its_answers_tokens() -> None:
    scores = Probes(ROWS, TOKENIZER).score(MODEL, BARE)["english"]
    wanted = []
    for row in ROWS[:6]:
        item = encode(TOKENIZER, row["prompt"], row["answer"])
        wanted.append(whole_model(item) / (len(item.ids) - item.completion))
    assert scores.tolist() == pytest.approx(wanted)


def test_a_pair_item_scores_the_chance_of_the_bad_sentence_in_percentage_points() -> None:
    scores = Probes(ROWS, TOKENIZER).score(MODEL, BARE)["grammar"]
    for score, row in zip(scores.tolist(), ROWS[6:], strict=True):
        good, bad = (whole_model(encode(TOKENIZER, row["prompt"], row[which])) for which in ("good", "bad"))
        chances = torch.softmax(-torch.tensor([good, bad], dtype=torch.float64), 0)
        assert score == pytest.approx(100 * chances[1].item())


def row_of(kind: str, *, leg: str = "more", **sides: str) -> dict[str, str]:
    return {"format": "probe/1", "id": f"{leg}-0", "leg": leg, "kind": kind, "prompt": "say", **sides}


def test_what_the_sides_of_a_pair_share_is_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = "the cat sat on the mat and the dog sat", "the cat sat on the mat near the dog sat"
    counted: list[float] = []

    def noted(model: Any, batch: Any, *, cut: int) -> torch.Tensor:
        counted.append(batch.weights.sum().item())
        return completion_losses(model, batch, cut=cut)

    monkeypatch.setattr(module, "completion_losses", noted)
    score = Probes([row_of("pair", good=good, bad=bad)], TOKENIZER).score(MODEL, BARE)["more"].item()
    sides = [encode(TOKENIZER, "say", text) for text in (good, bad)]
    assert counted[0] < sum(len(side.ids) - side.completion for side in sides) - 10
    chances = torch.softmax(-torch.tensor([whole_model(side) for side in sides], dtype=torch.float64), 0)
    assert score == pytest.approx(100 * chances[1].item())


def test_a_choice_item_scores_the_chance_of_the_bad_token_where_the_sides_part() -> None:
    texts = [("the cat sat on the mat", "the cat sat near the mat"), ("a note", "a note and another"), ("cat", "dog")]
    rows = [row_of("choice", good=good, bad=bad) for good, bad in texts]
    scores = Probes(rows, TOKENIZER).score(MODEL, BARE)["more"]
    for score, (good, bad) in zip(scores.tolist(), texts, strict=True):
        one, other = encode(TOKENIZER, "say", good).ids, encode(TOKENIZER, "say", bad).ids
        parting = next(place for place in range(len(one)) if one[place] != other[place])
        logits = MODEL(torch.tensor([one[:parting]])).logits[0, -1]
        chances = torch.softmax(logits[[one[parting], other[parting]]], 0)
        assert score == pytest.approx(100 * chances[1].item())


def test_an_open_item_leaves_its_end_out() -> None:
    rows = [row_of("open", answer="the cat sat on"), row_of("open", answer="a note")]
    scores = Probes(rows, TOKENIZER).score(MODEL, BARE)["more"]
    for score, row in zip(scores.tolist(), rows, strict=True):
        ended = encode(TOKENIZER, "say", row["answer"])
        item = replace(ended, ids=ended.ids[:-1])
        assert score == pytest.approx(whole_model(item) / (len(item.ids) - item.completion))
        assert score != pytest.approx(whole_model(ended) / (len(ended.ids) - ended.completion))


@pytest.mark.parametrize("kind", ["pair", "choice"])
def test_sides_that_do_not_part_are_refused(kind: str) -> None:
    with pytest.raises(ProbeError, match="the sides of probe more-0 are the same; rebuild the base bundle"):
        Probes([row_of(kind, good="the cat", bad="the cat")], TOKENIZER)


def test_units_belong_to_the_kinds() -> None:
    assert Probes(ROWS, TOKENIZER).units() == {"english": "nats per token", "grammar": "percentage points"}
    assert set(UNITS) == {"loss", "open", "pair", "choice"}
    assert set(UNITS.values()) == set(MARGINS)


def test_what_the_frozen_layers_made_is_kept_and_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = Probes(ROWS, TOKENIZER)
    first = probes.score(MODEL, BARE)
    monkeypatch.setattr(module, "prefixes", lambda *args, **more: pytest.fail("the frozen layers ran again"))
    again = probes.score(MODEL, BARE)
    assert all(torch.equal(first[leg], again[leg]) for leg in first)


def test_another_cut_gives_the_same_scores() -> None:
    probes = Probes(ROWS, TOKENIZER)
    first = probes.score(MODEL, BARE)
    again = probes.score(MODEL, fresh(MODEL, AdapterSpec(layers=(0, 3), rank=2), fits_base=DIGEST))
    for leg in first:
        torch.testing.assert_close(first[leg], again[leg])


def test_scores_come_in_the_order_of_the_items() -> None:
    forwards = Probes(ROWS, TOKENIZER).score(MODEL, BARE)
    backwards = Probes(ROWS[::-1], TOKENIZER).score(MODEL, BARE)
    for leg in forwards:
        torch.testing.assert_close(forwards[leg], backwards[leg].flip(0))


def test_an_adapter_changes_scores_and_is_taken_off_again() -> None:
    probes = Probes(ROWS, TOKENIZER)
    before = probes.score(MODEL, BARE)
    changed = probes.score(MODEL, warm_adapter(MODEL))
    after = probes.score(MODEL, BARE)
    assert all((changed[leg] != before[leg]).any() and torch.equal(before[leg], after[leg]) for leg in before)


@pytest.mark.parametrize("limit", [1, 2, 4, 6, 100])
def test_fewer_items_are_an_even_spread_over_each_leg(limit: int) -> None:
    some = Probes(ROWS, TOKENIZER, per_leg=limit).score(MODEL, BARE)
    everything = Probes(ROWS, TOKENIZER).score(MODEL, BARE)
    for leg, scores in some.items():
        kind = "pair" if Probes(ROWS, TOKENIZER).units()[leg] == UNITS["pair"] else "loss"
        wanted = max(2, int(limit * PER_LOSS[kind]))
        assert len(scores) == min(wanted, 6)
        places = [(everything[leg] - score).abs().argmin().item() for score in scores]
        assert places == [row * 6 // min(wanted, 6) for row in range(len(scores))]


def test_fewer_items_hold_as_many_of_each_kind_however_the_kinds_take_turns() -> None:
    """Every other item of mirrored kinds would be one kind only, and its mirror would not be heard."""
    rows = [
        {**row_of("choice", good=f"the cat {row}", bad=f"the dog {row}"), "id": f"more-{kind}-{row:03d}"}
        for row in range(8)
        for kind in ("he", "she")
    ]
    for limit, counts in ((8, (4, 4)), (5, (3, 2)), (2, (1, 1)), (1, (1, 1)), (100, (8, 8))):
        strata = Probes(rows, TOKENIZER, per_leg=limit).strata()["more"]
        assert (strata.count("more-he"), strata.count("more-she")) == counts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "probe/2"}, "probe l0 has format 'probe/2' and kind 'loss'; update limbeck"),
        ({"kind": "essay"}, "probe l0 has format 'probe/1' and kind 'essay'; update limbeck"),
        ({"leg": "grammar"}, "leg grammar mixes kinds loss and pair; rebuild the base bundle"),
        ({"answer": None}, "a probe has no field"),
        ({"format": None}, "a probe has no field 'format'; rebuild"),
    ],
)
def test_a_probe_of_another_format_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    rows = [{name: value for name, value in {**ROWS[0], **change}.items() if value is not None}, *ROWS[1:]]
    with pytest.raises(ProbeError) as refused:
        Probes(rows, TOKENIZER)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_a_base_without_probes_can_admit_nothing() -> None:
    with pytest.raises(ProbeError, match="the base bundle has no probes, so nothing could be admitted"):
        Probes([], TOKENIZER)
