"""Where a gateway's keys come from: the same for everybody, or none."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sdk.device.oblivious.key_configurations import MEDIA_TYPE, KeyConfiguration, serialise
from sdk.device.oblivious.key_file import rotate
from sdk.device.oblivious.key_source import KeySource
from sdk.device.oblivious.service import Incoming, Limits, Outgoing, Service
from sdk.device.oblivious.wire import Deadline
from sdk.errors import CloudError, CloudGarbledError, KeyConfigurationError
from tests.sdk.device.oblivious.served import served


@pytest.fixture
def one(tmp_path: Path) -> KeyConfiguration:
    return rotate(tmp_path / "one", overlap=timedelta(0), now=datetime.now(UTC))[0].key.configuration


@pytest.fixture
def other(tmp_path: Path) -> KeyConfiguration:
    return rotate(tmp_path / "other", overlap=timedelta(0), now=datetime.now(UTC))[0].key.configuration


@contextmanager
def publishing(*collections: bytes, kind: str = MEDIA_TYPE, status: int = 200) -> Iterator[tuple[str, list[Incoming]]]:
    """Serves the collections one after another, the last one for ever."""
    left, asked = list(collections), list[Incoming]()

    def handle(incoming: Incoming) -> Outgoing:
        asked.append(incoming)
        content = left.pop(0) if len(left) > 1 else left[0]
        return Outgoing(status=status, media_type=kind, content=content)

    with served(Service("127.0.0.1", 0, handle, limits=Limits())) as url:
        yield url, asked


def test_two_addresses_that_say_the_same_are_trusted(one: KeyConfiguration) -> None:
    collection = serialise([one])
    with publishing(collection) as (first, asked), publishing(collection) as (second, _):
        source = KeySource(first, second)
        assert source.current(Deadline(30)) == source.current(Deadline(30)) == (one,)
        assert len(asked) == 1  # Kept.


def test_a_key_that_only_one_of_them_gives_is_refused(one: KeyConfiguration, other: KeyConfiguration) -> None:
    with publishing(serialise([one])) as (first, _), publishing(serialise([other])) as (second, _):
        with pytest.raises(KeyConfigurationError, match="different keys for one gateway"):
            KeySource(first, second).current(Deadline(30))
        with pytest.raises(KeyConfigurationError, match="different keys for one gateway"):
            KeySource(first, second, pins=[one.pin]).current(Deadline(30))


def test_only_pinned_keys_are_used(one: KeyConfiguration, other: KeyConfiguration) -> None:
    with publishing(serialise([other, one])) as (url, _):
        assert KeySource(url, pins=[one.pin.upper()]).current(Deadline(30)) == (one,)
        with pytest.raises(KeyConfigurationError, match="none of the gateway's keys is pinned"):
            KeySource(url, pins=["00" * 32]).current(Deadline(30))


def test_without_the_pin_a_relays_own_key_would_be_taken(
    one: KeyConfiguration, other: KeyConfiguration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seeded mutant of the rule."""
    with publishing(serialise([other])) as (url, _):
        source = KeySource(url, pins=[one.pin])
        monkeypatch.setattr(source, "_pins", frozenset())
        assert source.current(Deadline(30)) == (other,)


def test_renewing_says_whether_anything_changed_and_keeps_the_old_ones_on_failure(
    one: KeyConfiguration, other: KeyConfiguration
) -> None:
    pins = [one.pin, other.pin]
    with publishing(serialise([one]), serialise([one]), serialise([other]), b"nonsense") as (url, _):
        source = KeySource(url, pins=pins)
        source.current(Deadline(30))
        assert source.renew(Deadline(30)) is False
        assert source.renew(Deadline(30)) is True
        with pytest.raises(KeyConfigurationError):
            source.renew(Deadline(30))
        assert source.current(Deadline(30)) == (other,)


def test_keys_from_a_file_are_trusted(tmp_path: Path, one: KeyConfiguration) -> None:
    file = tmp_path / "keys"
    file.write_bytes(serialise([one]))
    assert KeySource(file=file).current(Deadline(30)) == (one,)
    with pytest.raises(KeyConfigurationError, match="cannot be read"):
        KeySource(file=tmp_path / "none").current(Deadline(30))


@pytest.mark.parametrize(
    ("content", "kind", "status", "error"),
    [
        (b"<html>", "text/html", 200, KeyConfigurationError),
        (b"", MEDIA_TYPE, 503, KeyConfigurationError),
        (b"\x00" * 70_000, MEDIA_TYPE, 200, CloudGarbledError),
        (b"\xff", MEDIA_TYPE, 200, KeyConfigurationError),
    ],
)
def test_what_is_no_collection_is_one_typed_line(
    content: bytes, kind: str, status: int, error: type[CloudError]
) -> None:
    with publishing(content, kind=kind, status=status) as (url, _), pytest.raises(error):
        KeySource(url, pins=["00"]).current(Deadline(30))
