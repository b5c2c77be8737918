"""An opened request in, whether the gateway passes it on: for whom, when, and not twice.

Rules:
    1. Only targets on the list, below their path, with GET or POST: a gateway is no open proxy.
    2. Only requests that are dated within the window and after the gateway's start: what was seen before a restart is
       older than that.
    3. Each encapsulated key once; it is kept until its request would be too old anyhow. A full memory refuses.

Source: RFC 9458, sections 6.5 and 6.5.1.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from sdk.device.oblivious.binary_http import Request
from sdk.device.oblivious.wire import Address

__all__ = ["DateWindow", "SeenBefore", "Targets"]

WINDOW_SECONDS = 300.0  # Clocks of devices differ by minutes; a longer window only costs memory.
MAX_SEEN = 500_000  # At some 150 bytes each, 75 MB: over 800 requests a second.


class DateWindow:
    """When a request must have been made."""

    def __init__(self, *, started: datetime, seconds: float = WINDOW_SECONDS) -> None:
        """A window of so many seconds to both sides of now, beginning with the gateway itself."""
        self.seconds = seconds
        self._started = started.replace(second=0, microsecond=0)  # Clients say no seconds.

    def holds(self, date: str | None, now: datetime) -> bool:
        """Whether a `Date` header is within; False where there is none."""
        try:
            made = parsedate_to_datetime(date or "")
            made = made if made.tzinfo else made.replace(tzinfo=UTC)
            return made >= self._started and abs(now - made) <= timedelta(seconds=self.seconds)
        except (TypeError, ValueError, OverflowError):
            return False


class SeenBefore:
    """Which requests were passed on lately."""

    def __init__(self, *, seconds: float, most: int = MAX_SEEN) -> None:
        """Each is kept so many seconds; at most so many at once."""
        self._seconds, self._most = seconds, most
        self._until: OrderedDict[bytes, datetime] = OrderedDict()
        self._lock = threading.Lock()

    def first_time(self, enc: bytes, now: datetime) -> bool:
        """Note a request; False where it was noted before, or where there is no room to note it."""
        name = hashlib.sha256(enc).digest()
        with self._lock:
            while self._until and next(iter(self._until.values())) < now:
                self._until.popitem(last=False)
            if name in self._until or len(self._until) >= self._most:
                return False
            self._until[name] = now + timedelta(seconds=self._seconds)
            return True


class Targets:
    """What may be asked behind the gateway."""

    def __init__(self, urls: Sequence[str]) -> None:
        """The list; a request may go below any of these addresses.

        Raises:
            CloudError: One is no address.
        """
        self._bases = [Address.of(url, "target") for url in urls]

    def of(self, request: Request) -> Address | None:
        """The target that a request is for; None where it is for none of them."""
        if request.method not in ("GET", "POST") or not _is_plain(request.path):
            return None
        asked = (request.scheme.lower(), (request.authority or request.header("host") or "").lower())
        for base in self._bases:
            if asked == (base.scheme, base.authority.lower()) and request.path.startswith(f"{base.path}/"):
                return base
        return None


def _is_plain(path: str) -> bool:
    """Whether a path means what it looks like: no way up, nothing escaped, no query."""
    steps = path.split("/")[1:]
    return all(step not in ("", ".", "..") and not set(step) & set("%?#\\;") for step in steps)
