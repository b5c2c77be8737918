from typing import NoReturn

import keyring
import pytest

from privacy import system_keyring
from privacy.system_keyring import KeyringUnavailableError
from tests.privacy.keyrings import installed, none_installed


@pytest.fixture(autouse=True)
def switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMBECK_KEYRING", raising=False)


def test_what_is_written_is_read() -> None:
    with installed():
        assert system_keyring.usable()
        assert system_keyring.read("limbeck", "name") is None
        system_keyring.write("limbeck", "name", "text")
        assert system_keyring.read("limbeck", "name") == "text"


def test_a_system_without_a_keyring_has_none() -> None:
    with installed(none_installed()):
        assert not system_keyring.usable()


def test_a_switch_keeps_the_keyring_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_KEYRING", "0")
    with installed():
        assert not system_keyring.usable()


def test_a_keyring_that_cannot_even_be_looked_for_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> NoReturn:
        raise RuntimeError("no bus")

    monkeypatch.setattr(keyring, "get_keyring", broken)
    assert not system_keyring.usable()


def test_a_locked_keyring_says_so_in_one_line() -> None:
    with installed() as backend:
        backend.locked = True
        with pytest.raises(KeyringUnavailableError, match="unlock it"):
            system_keyring.read("limbeck", "name")
        with pytest.raises(KeyringUnavailableError, match="unlock it"):
            system_keyring.write("limbeck", "name", "text")
