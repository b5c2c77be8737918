"""Pairs are won by the likelier text; archives and label files are read as published or refused."""

import json
import zipfile
from pathlib import Path

import pytest
import torch

from sdk.build.evaluate import pairs
from sdk.build.evaluate.likelihood import Scored, nats, start_token
from sdk.build.evaluate.pairs import Pair, pair_leg, read_blimp, read_piqa
from sdk.errors import EvaluationError
from sdk.tokens import text_tokens
from tests.bench.people import data_folder
from tests.tiny import SENTENCES, tiny_model, tiny_tokenizer

MODEL, TOKENIZER = tiny_model(), tiny_tokenizer()


def blimp(folder: Path, paradigms: int = 2, rows: int = 9) -> Path:
    file = folder / "BLiMP.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for paradigm in range(paradigms):
            lines = [
                {
                    "UID": f"paradigm_{paradigm}",
                    "pairID": str(row),
                    "sentence_good": "the cat sat",
                    "sentence_bad": "sat",
                }
                for row in range(rows)
            ]
            archive.writestr(f"data/paradigm_{paradigm}.jsonl", "\n".join(map(json.dumps, lines)))
        archive.writestr("__MACOSX/data/._x.jsonl", b"\x00\x05")
    return file


def piqa(folder: Path, labels: str = "0\n1\n") -> Path:
    rows = [{"goal": "sit", "sol1": "on the mat", "sol2": "on the union"}, {"goal": "x", "sol1": "a", "sol2": "b"}]
    (folder / "valid.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "valid-labels.lst").write_text(labels, encoding="utf-8")
    return folder


def test_the_likelier_text_wins_whatever_the_order() -> None:
    start = start_token(TOKENIZER)
    one, other = SENTENCES[0], SENTENCES[1]
    costs = nats(MODEL, [Scored(ids=(start, *text_tokens(TOKENIZER, text))) for text in (one, other)])
    first, second = (
        pair_leg(MODEL, TOKENIZER, [Pair(name="a", group="g", before="", good=good, bad=bad)]).scores["accuracy"][0][0]
        for good, bad in ((one, other), (other, one))
    )
    assert (first, second) == ((1.0, 0.0) if costs[0] < costs[1] else (0.0, 1.0))


def test_a_tie_counts_half() -> None:
    same = Pair(name="a", group="g", before="", good="the cat", bad="the cat")
    assert pair_leg(MODEL, TOKENIZER, [same]).scores["accuracy"] == ((0.5,), (1.0,))


def test_what_both_begin_with_is_free_and_length_is_divided_out() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight.zero_()  # Each token costs log of the vocabulary, so the shorter answer wins.
    asked = Pair(name="a", group="g", before="say", good=" note note note", bad=" note")
    found = pair_leg(model, TOKENIZER, [asked])
    assert found.scores["accuracy"][0] == (0.0,)
    assert found.scores["by_length"][0] == (0.5,)  # The same nats a byte, to the last bit: three times one.


def test_a_seeded_choice_of_every_paradigm_is_taken(tmp_path: Path) -> None:
    found = read_blimp(blimp(tmp_path), each=4)
    assert [pair.group for pair in found] == ["paradigm_0"] * 4 + ["paradigm_1"] * 4
    assert len({pair.name for pair in found}) == 8
    assert found == read_blimp(blimp(tmp_path), each=4)


def test_piqas_labels_say_which_answer_is_good(tmp_path: Path) -> None:
    first, second = read_piqa(piqa(tmp_path), most=None)
    assert (first.before, first.good, first.bad) == ("Question: sit\nAnswer:", " on the mat", " on the union")
    assert (second.good, second.bad) == (" b", " a")
    assert len(read_piqa(piqa(tmp_path), most=1)) == 1


def test_damaged_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_bytes(b"PK")
    with pytest.raises(EvaluationError, match=r"no\.zip is no readable BLiMP"):
        read_blimp(tmp_path / "no.zip", each=1)
    with pytest.raises(EvaluationError, match="holds no pairs"):
        read_blimp(blimp(tmp_path, paradigms=0), each=1)
    with pytest.raises(EvaluationError, match="2 questions and 1 labels"):
        read_piqa(piqa(tmp_path, labels="0\n"), most=None)
    with pytest.raises(EvaluationError, match="no readable PIQA"):
        read_piqa(piqa(tmp_path, labels="0\n2\n"), most=None)


def test_swapped_sides_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = [
        Pair(name=str(row), group="g", before="", good=text, bad=text[::-1]) for row, text in enumerate(SENTENCES)
    ]
    wanted = pair_leg(MODEL, TOKENIZER, sentences).scores["accuracy"][0]
    monkeypatch.setattr(pairs, "_won", lambda good, bad: float(good > bad))
    assert pair_leg(MODEL, TOKENIZER, sentences).scores["accuracy"][0] == tuple(1 - won for won in wanted)


@pytest.mark.skipif(data_folder("blimp") is None or data_folder("piqa") is None, reason="no benchmark data here")
def test_the_published_sets_are_read_whole() -> None:
    folders = data_folder("blimp"), data_folder("piqa")
    assert folders[0] is not None
    assert folders[1] is not None
    found = read_blimp(folders[0] / "BLiMP.zip", each=3)
    assert (len(found), len({pair.group for pair in found})) == (201, 67)
    assert len(read_piqa(folders[1], most=None)) == 1838
