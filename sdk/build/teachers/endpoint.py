"""A request in, a checked JSON object out, from an HTTP endpoint that may be slow, busy, broken or something else.

What becomes of what can happen:

(1) 408, 409, 425, 429, 5xx, a timeout, a cut connection or a cut answer: again, after a wait that is drawn at random
    below a bound that doubles, or after what Retry-After asks for. At most `attempts` times, then one clear line.
(2) 400, 413, 422: this prompt is refused, others may go on.
(3) Any other status, a redirect, HTML, a JSON of another shape: the endpoint cannot be used.

The key is read from the environment by the caller, travels in one header and appears nowhere else: not in a cache, not
in an error, not to another host (redirects are not followed), not unencrypted beyond this machine.

Source of the waits: "Exponential backoff and jitter" (full jitter), AWS Architecture Blog, 2015; Retry-After: RFC 9110,
section 10.2.3.
"""

import http.client
import ipaddress
import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from sdk.errors import EndpointError, PromptRefusedError

__all__ = ["Endpoint", "Pace", "Patience"]

TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
THIS_PROMPT = frozenset({400, 413, 422})
MAX_ANSWER_BYTES = 32 * 1024 * 1024  # 4,000 tokens with 20 log-probabilities each are about 5 MB.
SHOWN_CHARACTERS = 160  # Of what an endpoint says about an error.


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to try."""

    attempts: int = 6
    """Requests for one answer, at least 1."""
    first_wait_s: float = 1.0
    """Bound of the first wait in seconds; doubles each time."""
    longest_wait_s: float = 60.0
    """Largest bound of a wait."""
    longest_asked_wait_s: float = 300.0
    """Longest Retry-After that is honoured by waiting; beyond it the run stops and says when to come back."""
    timeout_s: float = 120.0
    """For one whole answer."""


@dataclass(kw_only=True)
class Pace:
    """When the next request may start; shared by all threads of a run."""

    per_minute: float | None = None
    """Requests that may start in a minute, evenly spread; None: any number."""
    stop: Callable[[], bool] = lambda: False
    """Asked while waiting."""
    _next: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take_turn(self) -> None:
        """Wait until a request may start."""
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + (60 / self.per_minute if self.per_minute else 0)
        self.wait(start - time.monotonic())

    def hold(self, seconds: float) -> None:
        """Let nobody start for so long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def wait(self, seconds: float) -> None:
        """Wait, unless somebody asks to stop.

        Raises:
            EndpointError: Somebody did.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.stop():
                raise EndpointError("stopped while waiting for the endpoint; the same call with --resume goes on")
            time.sleep(min(left, 0.2))


class Endpoint:
    """One address that speaks OpenAI's HTTP format."""

    def __init__(
        self, url: str, *, key: str | None = None, patience: Patience | None = None, pace: Pace | None = None
    ) -> None:
        """Check the address; nothing is sent.

        Args:
            url: Its base, such as `http://localhost:8000/v1`.
            key: Sent as a bearer token; None sends none.
            patience: How long to try.
            pace: Shared limit of requests.

        Raises:
            EndpointError: No http(s) address, one that carries a secret, or a key that would travel unencrypted.
        """
        self.url = _checked_url(url, with_key=key is not None)
        if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
            raise EndpointError("the key holds characters that no header can carry; check its environment variable")
        self._key = key.strip() if key else None
        self._patience = patience or Patience()
        self._pace = pace or Pace()
        self._opener = urllib.request.build_opener(_NoRedirect)

    def post(self, path: str, body: Mapping[str, Any], *, lost: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Send JSON to `path` below the address, get a JSON object.

        Args:
            path: Such as `chat/completions`.
            body: What to send.
            lost: Called for each request that may have been served, and billed, without an answer that arrived.

        Raises:
            PromptRefusedError: The endpoint will not take this body.
            EndpointError: It cannot be used, or failed `attempts` times.
        """
        for attempt in range(self._patience.attempts):
            self._pace.take_turn()
            try:
                return self._once(path, body)
            except _TryAgain as failed:
                if failed.sent:
                    lost()
                if attempt + 1 == self._patience.attempts:
                    tries = f"{self._patience.attempts} times" if attempt else "once"
                    raise EndpointError(f"{self.url} failed {tries}, last: {failed}; try again later") from failed
                self._back_off(attempt, failed)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _back_off(self, attempt: int, failed: "_TryAgain") -> None:
        patience = self._patience
        if failed.asked_wait_s is None:
            bound = min(patience.longest_wait_s, patience.first_wait_s * 2**attempt)
            self._pace.wait(random.uniform(0, bound))  # At random, so that many clients do not come back together.
        elif failed.asked_wait_s > patience.longest_asked_wait_s:
            raise EndpointError(
                f"{self.url} asks to come back in {failed.asked_wait_s:.0f} s ({failed}); go on with --resume then"
            )
        else:
            self._pace.hold(failed.asked_wait_s)

    def _once(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "limbeck"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = json.dumps(body, ensure_ascii=False).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data=data, headers=headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._patience.timeout_s) as response:
                return self._parsed(self._read(response))
        except urllib.error.HTTPError as refused:
            with refused:
                raise self._refusal(refused) from None
        except urllib.error.URLError as cause:
            sent = isinstance(cause.reason, TimeoutError)
            raise _TryAgain(f"no connection ({self._shown(str(cause.reason))})", sent=sent) from cause
        except TimeoutError as cause:
            raise _TryAgain(f"no answer in {self._patience.timeout_s:g} s", sent=True) from cause
        except (http.client.HTTPException, ConnectionError, OSError) as cause:
            raise _TryAgain(f"the connection broke ({type(cause).__name__})", sent=True) from cause

    def _read(self, response: Any) -> bytes:
        """The whole body, within the time and size allowed: a server that drips holds nobody for ever."""
        until = time.monotonic() + self._patience.timeout_s
        parts, size = [], 0
        while part := response.read1(64 * 1024):
            parts.append(part)
            if (size := size + len(part)) > MAX_ANSWER_BYTES:
                raise EndpointError(f"{self.url} sends over {MAX_ANSWER_BYTES / 1e6:.0f} MB for one answer")
            if time.monotonic() > until:
                raise TimeoutError
        if response.length:  # read1 does not complain about a body that ends before its Content-Length.
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(parts)

    def _parsed(self, payload: bytes) -> dict[str, Any]:
        if payload.lstrip()[:1] == b"<":
            raise EndpointError(f"{self.url} answers HTML where JSON is needed; such addresses usually end in /v1")
        try:
            found = json.loads(payload)
        except ValueError as cause:
            raise _TryAgain(f"an answer that is no whole JSON ({len(payload)} bytes)", sent=True) from cause
        if not isinstance(found, dict):
            raise EndpointError(f"{self.url} answers a JSON {type(found).__name__} where an object is needed")
        return found

    def _refusal(self, refused: urllib.error.HTTPError) -> Exception:
        status = refused.code
        said, code = self._said(refused)
        if status in TRANSIENT and code != "insufficient_quota":
            return _TryAgain(f"HTTP {status}{said}", asked_wait_s=_asked_wait(refused.headers.get("Retry-After")))
        if status in THIS_PROMPT:
            return PromptRefusedError(f"HTTP {status}{said}")
        if 300 <= status < 400:
            target = self._shown(refused.headers.get("Location") or "nowhere")
            return EndpointError(f"{self.url} redirects to {target}; name the address itself")
        hint = {
            401: "; set the key in the environment",
            403: "; is the key allowed to do this?",
            404: "; check address and model",
        }
        return EndpointError(f"{self.url} refuses with HTTP {status}{said}{hint.get(status, '')}")

    def _said(self, refused: urllib.error.HTTPError) -> tuple[str, str]:
        """What the endpoint says of its refusal, as `: words`, and its code; both empty where it is not readable."""
        try:
            found = json.loads(refused.read(64 * 1024))
        except (ValueError, OSError, http.client.HTTPException):
            return "", ""
        error = found.get("error", found) if isinstance(found, dict) else found
        said = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        code = error.get("code") if isinstance(error, dict) else None
        return f": {self._shown(str(said))}" if said else "", str(code or "")

    def _shown(self, words: str) -> str:
        """Somebody else's words, safe on a terminal: one line, no control characters, no key, not long."""
        if self._key:
            words = words.replace(self._key, "[key]")
        line = " ".join("".join(one if one.isprintable() else " " for one in words).split())
        return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"


class _TryAgain(Exception):  # Never leaves this module.
    def __init__(self, what: str, *, sent: bool = False, asked_wait_s: float | None = None) -> None:
        super().__init__(what)
        self.sent = sent
        self.asked_wait_s = asked_wait_s


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _checked_url(url: str, *, with_key: bool) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as cause:
        raise EndpointError(f"the address cannot be read ({cause}); write it like https://host/v1") from cause
    if parts.scheme not in ("http", "https") or not host:
        raise EndpointError("the address of a teacher begins with http:// or https:// and names a host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise EndpointError(f"the address of {host} carries more than a path; a key belongs into the environment")
    if with_key and parts.scheme == "http" and not _is_here(host):
        raise EndpointError(f"a key would travel unencrypted to {host}; use https://, or unset the key's variable")
    return url.rstrip("/")


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _asked_wait(value: str | None) -> float | None:
    """Retry-After in seconds from now, at least 0; None where it is absent or neither a number nor a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(int(value)))
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())
