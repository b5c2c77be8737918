"""What models wrote lies sealed in the home, and goes with the adapter that wrote it."""

import os
from pathlib import Path

import pytest

from personalize import written as module
from personalize.errors import StoreError
from personalize.written import Written, WrittenTexts

KEY, OTHER = bytes(range(32)), bytes(32)
TEXTS = [
    Written(prompt="say", answer="the cat sat"),
    Written(prompt="say", answer="Zürich at dusk", writer="night-1"),
    Written(prompt="", answer="the second night's words", writer="night-2"),
]


@pytest.fixture
def texts(tmp_path: Path) -> WrittenTexts:
    made = WrittenTexts(tmp_path / "written.sealed", key=KEY)
    made.add(TEXTS)
    return made


def again(folder: Path, key: bytes = KEY) -> WrittenTexts:
    return WrittenTexts(folder / "written.sealed", key=key)


def test_a_home_without_texts_has_none(tmp_path: Path) -> None:
    assert again(tmp_path).all() == []
    assert again(tmp_path).drop(["night-1"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_texts_come_back_in_their_order(texts: WrittenTexts, tmp_path: Path) -> None:
    assert again(tmp_path).all() == TEXTS
    assert again(tmp_path).all(writer="night-1") == [TEXTS[1]]


def test_texts_are_appended_each_once(texts: WrittenTexts) -> None:
    more = Written(prompt="say", answer="more", writer="night-2")
    texts.add([TEXTS[0], more, more])
    assert texts.all() == [*TEXTS, more]


def test_nothing_of_a_text_can_be_read_from_the_file(texts: WrittenTexts, tmp_path: Path) -> None:
    content = (tmp_path / "written.sealed").read_bytes()
    assert not any(word.encode() in content for text in TEXTS for word in (text.answer, text.writer, "say"))
    assert os.name != "posix" or (tmp_path / "written.sealed").stat().st_mode & 0o077 == 0


def test_forgetting_an_adapter_takes_its_texts_and_leaves_the_others(texts: WrittenTexts, tmp_path: Path) -> None:
    assert texts.drop(["night-1", "night-7"]) == 1
    assert again(tmp_path).all() == [TEXTS[0], TEXTS[2]]


def test_forgetting_the_last_writer_leaves_no_file(texts: WrittenTexts, tmp_path: Path) -> None:
    assert texts.drop({text.writer for text in TEXTS}) == 3
    assert list(tmp_path.iterdir()) == []


def bytes_left_after(change: str, folder: Path) -> bytes:
    """What a second name of the old file still holds after texts were forgotten."""
    texts = again(folder)
    texts.add(TEXTS)
    os.link(folder / "written.sealed", folder / "second-name")
    texts.clear() if change == "clear" else texts.drop(["night-1"])
    return (folder / "second-name").read_bytes()


@pytest.mark.parametrize("change", ["clear", "drop"])
def test_the_bytes_that_a_forgotten_text_lay_in_are_overwritten(change: str, tmp_path: Path) -> None:
    left = bytes_left_after(change, tmp_path)
    assert left == bytes(len(left)) != b""


def test_forgetting_without_overwriting_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_overwrite", lambda file: None)
    with pytest.raises(AssertionError):
        test_the_bytes_that_a_forgotten_text_lay_in_are_overwritten("drop", tmp_path)


@pytest.mark.parametrize("damage", [b"", b"short", bytes(200)])
def test_a_damaged_file_is_refused_in_one_line_and_can_be_cleared(
    texts: WrittenTexts, tmp_path: Path, damage: bytes
) -> None:
    (tmp_path / "written.sealed").write_bytes(damage)
    for use in (texts.all, lambda: texts.add(TEXTS), lambda: texts.drop(["night-1"])):
        with pytest.raises(StoreError, match="cannot be opened"):
            use()
    assert (tmp_path / "written.sealed").read_bytes() == damage
    texts.clear()
    assert texts.all() == []


def test_another_key_opens_nothing(texts: WrittenTexts, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        again(tmp_path, OTHER).all()


def test_a_write_that_fails_leaves_the_texts_as_they_were(
    texts: WrittenTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left on device; free some space"):
            texts.add([Written(prompt="say", answer="one more")])
    assert again(tmp_path).all() == TEXTS
    assert [path.name for path in tmp_path.iterdir()] == ["written.sealed"]
