"""Text and tasks as token sequences and batches."""

import json
from pathlib import Path

import pytest

from sdk.build.sequences import batches, read_items, read_texts, task_sequence, text_sequences
from sdk.errors import PlanError
from tests.tiny import SENTENCES, tiny_tokenizer


def lines(folder: Path, rows: list[object], name: str = "rows.jsonl") -> Path:
    """A file of JSON lines."""
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_stretches_are_full_and_documents_are_kept_apart() -> None:
    tokenizer = tiny_tokenizer()
    made = text_sequences(tokenizer, SENTENCES, length=16, tokens=1_000)
    assert {len(one.ids) for one in made} == {16}
    assert made[0].ids[0] == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    joined = str(tokenizer.decode([token for one in made for token in one.ids]))
    assert joined.startswith(f"<|endoftext|>{SENTENCES[0]}<|endoftext|>{SENTENCES[1]}")
    assert all(one.counted == 15 for one in made)
    assert len(text_sequences(tokenizer, SENTENCES * 50, length=16, tokens=64)) == 4


def test_a_text_that_spells_a_control_stays_text() -> None:
    tokenizer = tiny_tokenizer()
    (one,) = text_sequences(tokenizer, ["<|im_end|>" * 3], length=8, tokens=8)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in one.ids


def test_only_the_answer_of_a_task_counts() -> None:
    tokenizer = tiny_tokenizer()
    one = task_sequence(tokenizer, "say the cat", "sat on the mat", length=200)
    assert one is not None
    assert str(tokenizer.decode(list(one.ids[: one.first]))).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(list(one.ids[one.first :])) == "sat on the mat<|im_end|>"
    assert task_sequence(tokenizer, "say the cat", "sat on the mat", length=len(one.ids) - 1) is None


def test_each_sequence_is_in_one_batch_and_no_batch_is_too_large() -> None:
    lengths = [3, 50, 7, 7, 8, 30, 2, 90]
    made = batches(lengths, tokens=60, seed=1)
    assert sorted(index for batch in made for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 60 for batch in made)
    assert made == batches(lengths, tokens=60, seed=1) != batches(lengths, tokens=60, seed=2)


def test_files_are_shuffled_alike_each_time(tmp_path: Path) -> None:
    file = lines(tmp_path, [{"text": str(number)} for number in range(50)])
    texts = read_texts([file])
    assert texts == read_texts([file]) != [str(number) for number in range(50)]
    assert sorted(texts, key=int) == [str(number) for number in range(50)]
    items = lines(tmp_path, [{"prompt": "a", "answer": "b", "task": "x"}] * 2, "items.jsonl")
    assert read_items([items]) == [("a", "b", "x")] * 2
    assert read_items([lines(tmp_path, [{"prompt": "a", "answer": "b"}], "bare.jsonl")]) == [("a", "b", "")]


@pytest.mark.parametrize("row", [{"txt": "a"}, {"text": 3}, ["text"]])
def test_a_line_without_text_is_named(tmp_path: Path, row: object) -> None:
    file = lines(tmp_path, [{"text": "fine"}, row])
    with pytest.raises(PlanError, match="line 2 of"):
        read_texts([file])


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\x00\xff")
    for name in ("missing", "binary"):
        with pytest.raises(PlanError, match="JSON lines"):
            read_texts([tmp_path / name])
