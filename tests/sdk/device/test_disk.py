"""What a home's small files say is read alike: none yet, damaged, or of another version."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from personalize.home import Home
from sdk.device.disk import Disk, stated
from sdk.device.extras import Extras
from sdk.device.repository import Source
from sdk.device.slots import Slots
from sdk.errors import SlotError

Reader = Callable[[Path], Any]


def state(home: Path) -> Any:
    return Slots(Home.open(home)).state()["history"]


def index(home: Path) -> Any:
    return Extras(home).index()["products"]


def source(home: Path) -> Any:
    return Source.load(home / "tuf")


READERS: list[tuple[Reader, str, object]] = [
    (state, "slots/state.json", []),
    (index, "extras/index.json", {}),
    (source, "tuf/source.json", None),
]


@pytest.mark.parametrize(("read", "name", "empty"), READERS)
def test_a_home_that_has_nothing_yet_says_so(tmp_path: Path, read: Reader, name: str, empty: object) -> None:
    Home.open(tmp_path / "home")
    assert read(tmp_path / "home") == empty
    (tmp_path / "home" / name).parent.mkdir()
    assert read(tmp_path / "home") == empty


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff\xfe", b'{"no": "format"}', b"[" * 100_000])
@pytest.mark.parametrize(("read", "name", "empty"), READERS)
def test_a_damaged_file_is_one_line_that_says_what_to_do_and_stays(
    tmp_path: Path, read: Reader, name: str, empty: object, content: bytes
) -> None:
    Home.open(tmp_path / "home")
    Disk().folder((tmp_path / "home" / name).parent)
    (tmp_path / "home" / name).write_bytes(content)
    with pytest.raises(SlotError, match=f"{name} is damaged; remove ") as refused:
        read(tmp_path / "home")
    assert "\n" not in str(refused.value)
    assert (tmp_path / "home" / name).read_bytes() == content


@pytest.mark.parametrize(("read", "name", "empty"), READERS)
def test_a_file_of_another_version_is_named_and_not_called_damaged(
    tmp_path: Path, read: Reader, name: str, empty: object
) -> None:
    Home.open(tmp_path / "home")
    Disk().folder((tmp_path / "home" / name).parent)
    (tmp_path / "home" / name).write_text('{"format": "thing/9"}')
    with pytest.raises(SlotError, match="has format 'thing/9'; use the version that wrote it"):
        read(tmp_path / "home")


def test_what_was_put_is_what_is_said(tmp_path: Path) -> None:
    Disk().put(tmp_path / "a.json", b'{"format": "thing/1", "it": 3}')
    assert stated(tmp_path / "a.json", "thing/1", else_do="") == {"format": "thing/1", "it": 3}
    assert stated(tmp_path / "a.json" / "b.json", "thing/1", else_do="") is None
