"""The shipped probe items and rehearsal texts are many, clean, the same every time, and strangers to one another."""

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from sdk.build import probes as room
from sdk.build.probes import bias, grammar, structured, write_probes
from sdk.build.probes.templates import Text, fill, sample

Item = dict[str, str]


def read(path: Path) -> list[Item]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("probes")
    write_probes(made)
    return made


@pytest.fixture(scope="module")
def probes(folder: Path) -> list[Item]:
    return read(folder / "probes.jsonl")


@pytest.fixture(scope="module")
def rehearsal(folder: Path) -> list[Item]:
    return read(folder / "rehearsal.jsonl")


def sides(item: Item) -> list[str]:
    return [item[side] for side in ("answer", "good", "bad") if side in item]


def runs(items: list[Item], size: int = 8) -> set[str]:
    """Each run of `size` words of prompt and answer; written apart from the code under test."""
    found: set[str] = set()
    for item in items:
        for side in sides(item):
            words = re.split(r"\W+", f"{item['prompt']} {side}".lower().strip())
            words = [word for word in words if word]
            found.update(" ".join(words[at : at + size]) for at in range(len(words) - size + 1))
    return found


def test_the_same_bytes_come_out_in_another_process_with_another_hash_seed(folder: Path, tmp_path: Path) -> None:
    code = f"from pathlib import Path; from sdk.build.probes import write_probes; write_probes(Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "7"}, cwd=Path.cwd())
    for name in ("probes.jsonl", "rehearsal.jsonl"):
        first, second = ((place / name).read_bytes() for place in (folder, tmp_path))
        assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()


def test_only_the_two_files_are_left_behind_and_a_second_write_replaces_them(tmp_path: Path) -> None:
    (tmp_path / "probes.jsonl").write_text("old")
    write_probes(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["probes.jsonl", "rehearsal.jsonl"]
    assert len(read(tmp_path / "probes.jsonl")) > 1000


def test_each_leg_has_the_items_that_its_power_needs(probes: list[Item]) -> None:
    legs = Counter(item["leg"] for item in probes)
    least = {
        **{"grammar": 400, "english": 200, "facts": 150, "tasks": 150, "instructions": 100},
        **{"own_words": 100, "structured": 100, "bias": 80},
    }
    assert legs.keys() == least.keys()
    assert all(legs[leg] >= count for leg, count in least.items()), legs


def test_items_have_the_fields_of_their_format(probes: list[Item], rehearsal: list[Item]) -> None:
    kinds = {"grammar": "pair", "structured": "choice", "bias": "choice", "own_words": "open"}
    for item in probes:
        shape = {"good", "bad"} if item["kind"] in ("pair", "choice") else {"answer"}
        assert item.keys() == {"format", "leg", "id", "kind", "prompt"} | shape
        assert item["format"] == "probe/1"
        assert item["kind"] == kinds.get(item["leg"], "loss")
    for item in rehearsal:
        assert item.keys() == {"format", "id", "prompt", "answer"}
        assert item["format"] == "rehearsal/1"


def test_ids_and_items_are_unique(probes: list[Item], rehearsal: list[Item]) -> None:
    ids = [item["id"] for item in probes + rehearsal]
    assert len(set(ids)) == len(ids)
    for items in (probes, rehearsal):
        texts = [(item["prompt"], *sides(item)) for item in items]
        assert len(set(texts)) == len(texts)


def test_rehearsal_is_large_and_holds_every_sort(rehearsal: list[Item]) -> None:
    sorts = Counter(item["id"].split("-")[1] for item in rehearsal)
    assert sorts.keys() == {"grammar", "english", "facts", "tasks", "instructions"}
    assert len(rehearsal) >= 600
    assert min(sorts.values()) >= 80


def test_rehearsal_shares_no_answer_with_a_probe(probes: list[Item], rehearsal: list[Item]) -> None:
    known = {side for item in probes for side in sides(item)}
    assert not known & {item["answer"] for item in rehearsal}
    assert not {item["prompt"] for item in probes if item["prompt"]} & {item["prompt"] for item in rehearsal}


def test_another_seed_draws_other_items_of_the_same_legs(probes: list[Item]) -> None:
    other = room.probes(seed=1)
    assert Counter(item["leg"] for item in other) == Counter(item["leg"] for item in probes)
    for leg in ("grammar", "english", "tasks", "bias"):
        shipped, drawn = ({tuple(sides(item)) for item in items if item["leg"] == leg} for items in (probes, other))
        assert len(shipped & drawn) < 0.9 * len(shipped), leg


def test_of_two_structured_answers_only_the_good_one_can_be_read(probes: list[Item]) -> None:
    breaks: Counter[str] = Counter()
    for item in (item for item in probes if item["leg"] == "structured"):
        breaks[item["id"].split("-")[1]] += 1
        assert isinstance(json.loads(item["good"]), dict)
        with pytest.raises(ValueError, match=r"Expecting|Extra|Unterminated|Illegal|Invalid"):
            json.loads(item["bad"])
    assert breaks.keys() == structured.BREAKS.keys()
    assert len(set(breaks.values())) == 1


def test_two_sides_of_a_stereotype_differ_in_their_last_word(probes: list[Item]) -> None:
    swapped = {"she", "he", "father", "mother", "girl", "boy", "old", "young", "rich", "poor"}
    kinds: Counter[str] = Counter()
    for item in (item for item in probes if item["leg"] == "bias"):
        kinds[item["id"].split("-")[1]] += 1
        good, bad = item["good"].split(), item["bad"].split()
        assert good[:-1] == bad[:-1]
        assert {good[-1], bad[-1]} <= swapped
        assert good[-1] != bad[-1]
    assert kinds.keys() == bias.STEREOTYPES.keys()
    assert len(set(kinds.values())) == 1


def test_no_word_of_a_stereotype_is_always_the_good_one(probes: list[Item]) -> None:
    """A model that simply likes "he", or "old", better must not look better or worse for it."""
    ends = Counter((item["good"].split()[-1], item["bad"].split()[-1]) for item in probes if item["leg"] == "bias")
    for one, other in (("she", "he"), ("girl", "boy"), ("old", "young"), ("father", "mother"), ("rich", "poor")):
        assert ends[one, other] == ends[other, one]


def test_rehearsal_shares_no_run_of_eight_words_with_a_probe(probes: list[Item], rehearsal: list[Item]) -> None:
    assert len(runs(probes)) > 1000  # The comparison has something to compare.
    assert not runs(probes) & runs(rehearsal)


def test_a_rehearsal_text_that_repeats_a_probe_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = next(item for item in room.probes() if item["leg"] == "english")
    copies = [
        Text("A new question", probe["answer"]),
        Text("A new question", f"He said this: {probe['answer']} Indeed."),
        Text("A new question", "An answer of its own."),
    ]
    monkeypatch.setattr(room.english, "rehearsal", lambda rng: copies)
    kept = [item["answer"] for item in room.rehearsal() if item["id"].startswith("rehearsal-english")]
    assert kept == ["An answer of its own."]


def test_texts_are_clean_ascii_without_holes_or_stray_spaces(probes: list[Item], rehearsal: list[Item]) -> None:
    for item in probes + rehearsal:
        for text in (item["prompt"], *sides(item)):
            assert text.isascii()
            assert text == text.strip()
            assert "  " not in text
            assert not re.search(r"\{[a-z_]+\d*(:\d)?\}|\[|\|", text.replace('["', "").replace("['", "")), text
            assert not re.search(r"\ba [aeio]|\ban (?!hour)[^aeiou\W]", text.lower()), text
        assert all(sides(item))


def test_items_are_short_so_that_the_gate_costs_seconds(probes: list[Item], rehearsal: list[Item]) -> None:
    words = sorted(len(re.findall(r"\w+|[^\w\s]", f"{item['prompt']} {sides(item)[0]}")) for item in probes + rehearsal)
    assert words[-1] <= 60
    assert words[len(words) * 9 // 10] <= 40
    assert sum(words) / len(words) <= 24


def test_structured_answers_are_json_with_the_keys_that_the_prompt_names(
    probes: list[Item], rehearsal: list[Item]
) -> None:
    structured = [item for item in probes + rehearsal if "answer" in item and item["answer"].startswith("{")]
    assert len(structured) >= 200
    for item in structured:
        answer = json.loads(item["answer"])
        named = re.sub(r"^(JSON with|Fill the keys) ", "", item["prompt"].split(":")[0]).split(", ")
        assert list(answer) == named
        assert json.dumps(answer) == item["answer"]


def test_structured_values_come_from_the_prompt(probes: list[Item]) -> None:
    fixed = {"timer", "alarm", "message", "light", "play", "weather", "navigate", "add", "open", "brightness", "on"}
    for item in (item for item in probes if item["leg"] == "tasks" and item["answer"].startswith("{")):
        for value in json.loads(item["answer"]).values():
            for part in value if isinstance(value, list) else [value]:
                if part not in fixed:
                    assert str(part).lower().lstrip("0").rstrip(".") in item["prompt"].lower()


@pytest.mark.parametrize("form", ["probe", "rehearsal"])
def test_answers_to_instructions_follow_them(form: str, probes: list[Item], rehearsal: list[Item]) -> None:
    """Three kinds checked again by another route: capitals, sorting and dates."""
    items = probes if form == "probe" else rehearsal
    kinds = {"capital letters": 0, "alphabet": 0, "date": 0}
    for item in (item for item in items if "instructions" in item["id"]):
        prompt, answer = item["prompt"], item["answer"]
        material = prompt.split(": ")[1]
        if re.search("capital letters|upper case", prompt):
            kinds["capital letters"] += 1
            assert answer.lower() == material
            assert answer.isupper()
        elif "alphabet" in prompt:
            kinds["alphabet"] += 1
            words = answer.split(", ")
            assert set(words) == set(material.split(", "))
            assert all(one < two for one, two in itertools.pairwise(words))
        elif re.search("YYYY|ISO", prompt):
            kinds["date"] += 1
            day, month, year = material.split()
            assert (int(answer[8:]), answer[:4]) == (int(day), year)
            assert "JanFebMarAprMayJunJulAugSepOctNovDec".index(month[:3]) // 3 + 1 == int(answer[5:7])
    assert all(count >= 5 for count in kinds.values()), kinds


def test_a_pair_differs_in_one_place_of_at_most_four_words(probes: list[Item]) -> None:
    phenomena = Counter(item["id"].split("-")[1] for item in probes if item["kind"] == "pair")
    assert len(phenomena) >= 10
    assert min(phenomena.values()) >= 20
    for item in (item for item in probes if item["kind"] == "pair"):
        good, bad = item["good"].split(), item["bad"].split()
        while good and bad and good[0] == bad[0]:
            good, bad = good[1:], bad[1:]
        while good and bad and good[-1] == bad[-1]:
            good, bad = good[:-1], bad[:-1]
        assert 1 <= len(good) <= 4
        assert len(good) == len(bad)


def test_every_phenomenon_names_the_right_sentence_first() -> None:
    pairs = {pair.phenomenon: pair for pair in grammar.probes(Random(3))}
    pair = pairs["determiner_noun"]
    right = re.search(r"\b(these|those) \w+s\b|\b(this|that) \w+[^s]\b", pair.good)
    assert right
    assert pair.good != pair.bad


def test_fill_gives_numbered_slots_different_words_and_one_slot_one_word() -> None:
    words = {"name": ["Ann", "Bob"], "move": ["go|went"]}
    for seed in range(20):
        text = fill("{name1} met {name2}; {name1} {move:1}, did {move:0}", words, Random(seed))
        assert text in ("Ann met Bob; Ann went, did go", "Bob met Ann; Bob went, did go")


def test_fill_says_an_before_a_vowel() -> None:
    assert (
        fill("A {thing} and a {other}", {"thing": ["apple"], "other": ["uniform"]}, Random(0))
        == "An apple and a uniform"
    )


def test_templates_that_cannot_make_so_many_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="make 2 different texts, 3 were asked for"):
        sample(["{word}"], {"word": ["one", "two"]}, 3, Random(0))


def test_the_first_sixth_of_the_grammar_leg_holds_every_phenomenon_equally(probes: list[Item]) -> None:
    pairs = [item["id"].split("-")[1] for item in probes if item["kind"] == "pair"]
    counts = Counter(pairs[: len(pairs) // 6])
    assert counts.keys() == set(pairs)
    assert set(counts.values()) == {4}
