"""A model writes to public prompts; what is kept is sound, new, and nobody's control."""

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from personalize import generated
from personalize.adapter import attached
from personalize.forward import encode
from personalize.generated import Standards, sift, top_up, write, write_texts
from personalize.plan import Mix
from personalize.written import Written, WrittenTexts
from tests.brute_force import loss_of
from tests.nights import SPEC, taught_model, warm_adapter
from tests.tiny import SENTENCES, tiny_tokenizer

MODEL, TOKENIZER = taught_model(), tiny_tokenizer()
LENIENT = Standards(least_tokens=1, most_repeated=1.0, echoed_words=99, nats=(0.0, 99.0))
PROMPTS = ["say", "", "say", "the cat", "a person writes", "say"]


def answers(seed: int = 0, prompts: list[str] = PROMPTS, **more: float | bool) -> list[str]:
    found = dict(write(MODEL, TOKENIZER, prompts, seed=seed, **more))  # type: ignore[arg-type]
    assert sorted(found) == list(range(len(prompts)))
    return [found[index] for index in range(len(prompts))]


def test_a_model_that_knows_its_sentences_writes_them() -> None:
    """At a low temperature a sample is the likeliest answer; the taught model's only school was SENTENCES."""
    assert set(answers(temperature=0.05, prompts=["say"] * 8)) <= set(SENTENCES)


def test_the_first_token_is_drawn_from_the_models_own_distribution() -> None:
    begun = encode(TOKENIZER, "say", "")
    with torch.no_grad():
        logits = MODEL(torch.tensor([begun.ids[: begun.completion]])).logits[0, -1]
    chances, count = torch.softmax(logits, 0), 600
    drawn = answers(prompts=["say"] * count, max_tokens=1, whole=False)
    for token in chances.topk(3).indices.tolist():
        share = float(chances[token])
        found = drawn.count(str(TOKENIZER.decode([token])).strip()) / count
        assert abs(found - share) < 5 * (share * (1 - share) / count) ** 0.5 + 1e-9


def test_the_same_seed_writes_the_same_texts_and_another_one_others() -> None:
    assert answers(1) == answers(1)
    assert answers(1) != answers(2)


def test_prompts_of_unequal_length_do_not_disturb_one_another() -> None:
    """Near temperature zero there is one answer to each prompt, alone or among others."""
    together = answers(temperature=0.01)
    assert together == [answers(temperature=0.01, prompts=[prompt])[0] for prompt in PROMPTS]


def test_an_answer_ends_where_the_model_ends_it_or_at_its_last_whole_sentence() -> None:
    assert generated._finished(" One. Two! And thr", ended=False) == "One. Two!"
    assert generated._finished('He said "no." And th', ended=False) == 'He said "no."'
    assert generated._finished("no end at all", ended=False) == ""
    assert generated._finished(" no end needed \n", ended=True) == "no end needed"


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"temperature": -1.0}, {"max_tokens": 0}])
def test_arguments_that_ask_for_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        answers(**wrong)  # type: ignore[arg-type]


# What is kept


def kept(*texts: Written, standards: Standards = LENIENT, known: tuple[Written, ...] = ()) -> dict[str, int]:
    """Faults of the texts, by name."""
    return sift(MODEL, TOKENIZER, texts, cut=SPEC.cut, standards=standards, known=known)[1]


def said(answer: str, prompt: str = "say") -> Written:
    return Written(prompt=prompt, answer=answer)


def test_a_sound_text_is_kept() -> None:
    texts = [said(SENTENCES[0]), said(SENTENCES[1])]
    assert sift(MODEL, TOKENIZER, texts, cut=SPEC.cut, standards=LENIENT) == (texts, {})


@pytest.mark.parametrize(
    ("text", "standards", "fault"),
    [
        (said(""), LENIENT, "short"),
        (said("... !"), LENIENT, "short"),
        (said("a b"), replace(LENIENT, least_tokens=30), "short"),
        (said("so it goes and so it goes and so it goes"), replace(LENIENT, most_repeated=0.3), "repetition"),
        (said("I said the cat sat on it", prompt="the cat sat on the mat"), replace(LENIENT, echoed_words=4), "echo"),
        (said(f"fine<|im_end|> {SENTENCES[0]}"), LENIENT, "control"),
        (said(f"<|assistant|> {SENTENCES[0]}"), LENIENT, "control"),
        (said(f"{SENTENCES[0]} \ufffd"), LENIENT, "control"),
        (said(SENTENCES[0]), replace(LENIENT, nats=(50.0, 99.0)), "perplexity"),
        (said("qzx vkw jjf"), replace(LENIENT, nats=(0.0, 1.0)), "perplexity"),
    ],
)
def test_a_text_that_is_not_good_enough_falls_for_its_fault(text: Written, standards: Standards, fault: str) -> None:
    assert kept(text, standards=standards) == {fault: 1}
    assert kept(said(SENTENCES[2]), standards=LENIENT) == {}


def test_a_text_is_kept_once_whoever_wrote_it_and_however_it_is_spelled() -> None:
    again = replace(said(SENTENCES[0].upper() + "!"), writer="night-1")
    assert kept(said(SENTENCES[0]), again) == {"known": 1}
    assert kept(again, known=(said(SENTENCES[0]),)) == {"known": 1}


def test_perplexity_is_the_bare_bases_mean_loss() -> None:
    records = [encode(TOKENIZER, "say", text) for text in SENTENCES[:2]]
    wanted = [loss_of(MODEL, record, {}).item() / (len(record.ids) - record.completion) for record in records]
    assert generated._nats(MODEL, records, SPEC.cut) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("fault", "standards"),
    [
        ("short", replace(LENIENT, least_tokens=30)),
        ("repetition", replace(LENIENT, most_repeated=0.3)),
        ("echo", replace(LENIENT, echoed_words=4)),
        ("control", LENIENT),
        ("perplexity", replace(LENIENT, nats=(50.0, 99.0))),
    ],
)
def test_standards_that_let_everything_pass_are_caught(
    fault: str, standards: Standards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Standards, "fault", lambda *facts: None)
    with pytest.raises(AssertionError):
        test_a_text_that_is_not_good_enough_falls_for_its_fault(said("so it goes and so it goes"), standards, fault)


@pytest.mark.parametrize(
    "wrong", [{"least_tokens": 0}, {"echoed_words": 0}, {"most_repeated": 1.5}, {"nats": (2.0, 1.0)}]
)
def test_standards_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"out of range|at least 1"):
        Standards(**wrong)  # type: ignore[arg-type]


# Who wrote it


def test_an_adapter_writes_under_its_name_and_is_judged_by_the_bare_base() -> None:
    adapter = warm_adapter(MODEL, size=0.05)
    texts = write_texts(
        MODEL, TOKENIZER, ["say"] * 12, adapter=("night-1", adapter), cut=SPEC.cut, seed=0, standards=LENIENT
    )
    assert {text.writer for text in texts} == {"night-1"}
    with attached(MODEL, adapter):
        wanted = dict(write(MODEL, TOKENIZER, ["say"] * 12, seed=0))
    assert {text.answer for text in texts} <= set(wanted.values())
    bare = write_texts(MODEL, TOKENIZER, ["say"] * 12, adapter=None, cut=SPEC.cut, seed=0, standards=LENIENT)
    assert {text.writer for text in bare} == {"base"}
    assert {text.answer for text in bare} != {text.answer for text in texts}


def test_an_adapter_that_never_gets_attached_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "attached", lambda model, adapter: nullcontext())
    with pytest.raises(AssertionError):
        test_an_adapter_writes_under_its_name_and_is_judged_by_the_bare_base()


def test_what_is_known_is_not_written_again() -> None:
    ask = {"adapter": None, "cut": SPEC.cut, "seed": 0, "standards": LENIENT}
    first = write_texts(MODEL, TOKENIZER, ["say"] * 12, **ask)  # type: ignore[arg-type]
    assert len({text.answer for text in first}) == len(first) > 0
    assert write_texts(MODEL, TOKENIZER, ["say"] * 12, known=first, **ask) == []  # type: ignore[arg-type]


# A night's supply


ROWS = [{"format": "rehearsal/1", "id": f"r{row}", "prompt": f"say {row}", "answer": "x"} for row in range(60)]
HALVES = Mix(anchors=0.5, by_base=0.25, by_adapter=0.25)


def supplied(kept: WrittenTexts, mix: Mix = HALVES, *, name: str | None = "night-1", seed: int = 0) -> dict[str, int]:
    """How many texts of each writer a home holds after a night of 16 texts."""
    adapter = (name, warm_adapter(MODEL, size=0.05)) if name else None
    top_up(kept, mix, ROWS, MODEL, TOKENIZER, count=16, adapter=adapter, cut=SPEC.cut, seed=seed)
    return dict(Counter(text.writer for text in kept.all()))


@pytest.fixture
def home_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WrittenTexts:
    monkeypatch.setattr(Standards, "fault", lambda *facts: None)  # The tiny model's texts are not worth judging.
    return WrittenTexts(tmp_path / "written.sealed", key=bytes(32))


def test_a_plain_mix_writes_nothing(home_texts: WrittenTexts) -> None:
    assert supplied(home_texts, Mix()) == {}


def test_what_the_mix_asks_for_is_written_once(home_texts: WrittenTexts) -> None:
    assert supplied(home_texts) == {"base": 4, "night-1": 4}
    before = home_texts.all()
    assert supplied(home_texts, seed=1) == {"base": 4, "night-1": 4}
    assert home_texts.all() == before
    assert {text.prompt for text in before} <= {row["prompt"] for row in ROWS}, "only public prompts are answered"


def test_a_new_adapter_adds_its_own_and_the_old_ones_stay_until_they_are_dropped(home_texts: WrittenTexts) -> None:
    supplied(home_texts)
    assert supplied(home_texts, name="night-2", seed=2) == {"base": 4, "night-1": 4, "night-2": 4}
    assert home_texts.drop(["night-1"]) == 4


def test_before_the_first_admission_only_the_base_writes(home_texts: WrittenTexts) -> None:
    assert supplied(home_texts, name=None) == {"base": 4}
