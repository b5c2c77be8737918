"""Where a gateway's keys come from, and why they may be trusted not to be made for one person alone.

A key that only one person gets would tell the gateway who asks; a key of the relay's own would let the relay read. So:

(1) Keys come from a file, which is trusted, or from addresses.
(2) All addresses must give the same bytes: at least two where nothing is pinned, such as the relay's copy and the
    gateway itself.
(3) With pins, which every device gets alike with a signed update, only pinned keys are used; one address is enough.
(4) Every device sends the same request for them, and keeps them for a day, or until the gateway does not know the key.

Source: RFC 9458, sections 3 and 7; "Key consistency and discovery", draft-ietf-privacypass-key-consistency.
"""

import threading
import time
from collections.abc import Iterable
from pathlib import Path

from sdk.device.oblivious.key_configurations import MAX_COLLECTION_BYTES, MEDIA_TYPE, KeyConfiguration, parse
from sdk.device.oblivious.wire import Address, Deadline, exchange
from sdk.errors import KeyConfigurationError

__all__ = ["KeySource"]

KEPT_SECONDS = 24 * 3600.0


class KeySource:
    """The keys of one gateway."""

    def __init__(self, *urls: str, pins: Iterable[str] = (), file: Path | None = None) -> None:
        """Check the rule; nothing is asked.

        Args:
            urls: Addresses of the collection.
            pins: SHA-256 of trusted key configurations, 64 hex digits each (`limbeck oblivious keys` prints them).
            file: A collection in a file instead.

        Raises:
            KeyConfigurationError: One address and no pin, or none of both: nobody could tell a key made for one person.
            CloudError: An address is none.
        """
        self._addresses = [Address.of(url, "gateway's keys") for url in urls]
        self._pins, self._file = frozenset(pin.lower() for pin in pins), file
        if bool(urls) == bool(file):
            raise KeyConfigurationError("the gateway's keys come from addresses or from a file: give one of both")
        distinct = {(one.authority, one.path) for one in self._addresses}
        if urls and not self._pins and len(distinct) < 2:
            raise KeyConfigurationError(
                "one address and no pin: nobody could tell keys that are made for you alone; "
                "add a pin, or a second address that must say the same"
            )
        self._lock = threading.Lock()
        self._kept: tuple[KeyConfiguration, ...] = ()
        self._until = 0.0

    def current(self, deadline: Deadline) -> tuple[KeyConfiguration, ...]:
        """The trusted keys, fetched where they are older than a day.

        Raises:
            KeyConfigurationError: They cannot be trusted or read.
            CloudError: They cannot be fetched.
        """
        with self._lock:
            if not self._kept or time.monotonic() >= self._until:
                self._take(deadline)
            return self._kept

    def renew(self, deadline: Deadline) -> bool:
        """Fetch them again; says whether they changed. Errors as `current`; the old ones are kept then."""
        with self._lock:
            before = self._kept
            self._take(deadline)
            return self._kept != before

    def _take(self, deadline: Deadline) -> None:
        found = parse(self._read() if self._file else self._fetched(deadline))
        trusted = tuple(one for one in found if not self._pins or one.pin in self._pins)
        if not trusted:
            raise KeyConfigurationError(
                "none of the gateway's keys is pinned on this device; an update brings new pins"
            )
        self._kept, self._until = trusted, time.monotonic() + KEPT_SECONDS

    def _read(self) -> bytes:
        assert self._file
        try:
            return self._file.read_bytes()
        except OSError as cause:
            raise KeyConfigurationError(
                f"the gateway's keys in {self._file} cannot be read ({cause.strerror})"
            ) from cause

    def _fetched(self, deadline: Deadline) -> bytes:
        first, *others = [self._from(address, deadline) for address in self._addresses]
        if any(other != first for other in others):
            hosts = " and ".join(one.host for one in self._addresses)
            raise KeyConfigurationError(f"{hosts} give different keys for one gateway; nothing was sent, try later")
        return first

    def _from(self, address: Address, deadline: Deadline) -> bytes:
        reply = exchange(
            "GET", address, address.path, headers={"Accept": MEDIA_TYPE}, deadline=deadline, limit=MAX_COLLECTION_BYTES
        )
        if reply.status != 200 or reply.media_type != MEDIA_TYPE:
            kind = reply.media_type or "no type"
            raise KeyConfigurationError(f"{address.host} answers {reply.status} and {kind!r:.60} where keys should be")
        return reply.content
