import os
import sys
from pathlib import Path

import pytest

from personalize.errors import SourceError
from personalize.sources.files import MAX_FILE_BYTES, checked, read_text


def refusal(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        read_text(path)
    return str(caught.value)


def test_text_is_read_without_its_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"\xef\xbb\xbfna\xc3\xafve")
    assert read_text(tmp_path / "notes.txt") == "naïve"


@pytest.mark.parametrize("name", ["none.txt", "file.txt/below", "nul\0l"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("text")
    assert "check the path" in refusal(tmp_path / name)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path).endswith("is a folder; give a file in it")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_pipe_or_device_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is not an ordinary file" in refusal(tmp_path / "pipe")
    assert "is not an ordinary file" in refusal(Path("/dev/zero"))


@pytest.mark.parametrize("content", [b"", b" \n\t \n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "empty.txt").write_bytes(content)
    assert refusal(tmp_path / "empty.txt").endswith(
        f"is empty: {len(content)} bytes and no text; give a file with text"
    )


def test_a_hundred_megabytes_are_refused_without_reading_them(tmp_path: Path) -> None:
    with (tmp_path / "big.txt").open("wb") as file:
        file.truncate(100_000_000)
    assert "has 100.0 MB, more than 20 MB; give its newest part, or split it" in refusal(tmp_path / "big.txt")


def test_the_largest_allowed_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "full.txt").write_bytes(b"x" * MAX_FILE_BYTES)
    assert len(checked(tmp_path / "full.txt")) == MAX_FILE_BYTES


def test_a_binary_file_is_refused_with_where(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8JFIF" * 2_000 + b"\0")
    assert "is binary: null byte at offset 12,000; save it as UTF-8 text" in refusal(tmp_path / "photo.jpg")


def test_another_encoding_is_refused_with_where(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    assert "is not UTF-8: bad byte at offset 2; save it as UTF-8 text" in refusal(tmp_path / "latin.txt")


def test_a_file_name_with_a_line_break_and_escapes_still_gives_one_line(tmp_path: Path) -> None:
    assert "\n" not in refusal(tmp_path / "a\nb\x1b[31m.txt")
    assert "\x1b" not in refusal(tmp_path / "a\nb\x1b[31m.txt")
