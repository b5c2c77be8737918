"""The gateway: opens what a relay brings, asks the one target that it serves, seals the answer. It learns no address.

What becomes of a request, in this order (RFC 9458, section 5.2):

(1) Not sealed for a key of this gateway: 400 in the clear, with the problem type `ohttp-key`. All reasons look alike.
(2) No binary HTTP request inside: 400, sealed, as everything from here on.
(3) Its `Date` outside the window, or none: 400 with the problem type `date` and the right date.
(4) Seen before: 409. It expects 100-continue: 417. For no target on the list: 403. None of these reaches a target.
(5) The target does not answer in time: 504; answers too much or no HTTP: 502; otherwise what it answers.

All sealed answers of a size class have one length. Nothing is logged but how often each outcome came.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime

from sdk.device.oblivious.admission import WINDOW_SECONDS, DateWindow, SeenBefore, Targets
from sdk.device.oblivious.binary_http import Request, Response, decode, encode, size_class
from sdk.device.oblivious.encapsulation import REQUEST_TYPE, RESPONSE_TYPE, Asked, open_request
from sdk.device.oblivious.key_configurations import GATEWAY_PATH, MEDIA_TYPE
from sdk.device.oblivious.key_file import KeyFile
from sdk.device.oblivious.problems import DATE_PROBLEM, KEY_PROBLEM, PROBLEM_TYPE, problem
from sdk.device.oblivious.service import Incoming, Outgoing
from sdk.device.oblivious.wire import Address, Deadline, exchange
from sdk.errors import BinaryHttpError, CloudGarbledError, CloudUnreachableError, EncapsulationError

__all__ = ["Gateway"]

PASSED_ON = (
    "content-type",
    "accept",
    "authorization",
)  # Of a request; no other header can say anything about a person.
HANDED_BACK = ("content-type", "retry-after")  # Of an answer; above all no Set-Cookie and no Location.
MAX_ANSWER_BYTES = 4 * 1024 * 1024


class Gateway:
    """Decides and forwards; a `service.Service` around `handle` makes it a server."""

    def __init__(
        self,
        keys: KeyFile,
        targets: Sequence[str],
        *,
        key: str | None = None,
        seconds: float = 60.0,
        window_seconds: float = WINDOW_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Nothing is asked yet.

        Args:
            keys: Its own.
            targets: Addresses that requests may go to; each with all that lies below it.
            key: Sent to the target as a bearer token in place of what a request brings: so no device needs one.
            seconds: For an answer of the target.
            window_seconds: How far a request's date may be off.
            now: The clock.

        Raises:
            CloudError: A target is no address.
        """
        self._keys, self._targets, self._key = keys, Targets(targets), key
        self._seconds, self._now = seconds, now
        self._window = DateWindow(started=now(), seconds=window_seconds)
        self._seen = SeenBefore(seconds=2 * window_seconds)
        self._outcomes: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def outcomes(self) -> dict[str, int]:
        """How often what came of requests: all that a gateway remembers of them."""
        with self._lock:
            return dict(self._outcomes)

    def handle(self, incoming: Incoming) -> Outgoing:
        """Answer one request of a relay, or one for the keys."""
        if incoming.path != GATEWAY_PATH:
            return Outgoing(status=404, content=b"not here\n")
        if incoming.method == "GET":
            headers = {"Cache-Control": "max-age=3600"}
            return Outgoing(
                status=200, media_type=MEDIA_TYPE, content=self._keys.collection(self._now()), headers=headers
            )
        if incoming.media_type != REQUEST_TYPE:
            return Outgoing(status=415, content=f"send {REQUEST_TYPE}\n".encode())
        try:
            asked = open_request(incoming.content, self._keys.opening(self._now()))
        except EncapsulationError:
            self._count("not for this gateway")
            return Outgoing(status=400, media_type=PROBLEM_TYPE, content=problem("key unknown", KEY_PROBLEM))
        try:
            plain = encode(self._answered(asked))
        except BinaryHttpError:
            plain = encode(self._refusal(502, "the target's answer has no binary form"))
        sealed = asked.seal(plain + bytes(size_class(len(plain)) - len(plain)))
        return Outgoing(
            status=200, media_type=RESPONSE_TYPE, content=sealed, headers={"Cache-Control": "private, no-store"}
        )

    def _answered(self, asked: Asked) -> Response:
        now = self._now()
        try:
            request = decode(asked.content)
        except BinaryHttpError:
            return self._refusal(400, "no binary HTTP request")
        if not isinstance(request, Request):
            return self._refusal(400, "no binary HTTP request")
        if not self._window.holds(request.header("date"), now):
            date = ("date", format_datetime(now.astimezone(UTC).replace(microsecond=0), usegmt=True))
            return self._refusal(400, "date outside the window", kind=DATE_PROBLEM, headers=(date,))
        if not self._seen.first_time(asked.enc, now):
            return self._refusal(409, "seen before")
        if request.header("expect"):
            return self._refusal(417, "no expectation can be met")
        target = self._targets.of(request)
        if target is None:
            return self._refusal(403, "no target of this gateway")
        return self._forwarded(request, target)

    def _forwarded(self, request: Request, target: Address) -> Response:
        headers = {name: value for name, value in request.headers if name in PASSED_ON}
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}"
        try:
            reply = exchange(
                request.method, target, request.path,
                headers=headers, content=request.content, deadline=Deadline(self._seconds), limit=MAX_ANSWER_BYTES,
            )  # fmt: skip
        except CloudUnreachableError:
            return self._refusal(504, "the target does not answer")
        except CloudGarbledError:
            return self._refusal(502, "the target answers too much or no HTTP")
        kept = tuple((name, reply.headers[name].strip()) for name in HANDED_BACK if name in reply.headers)
        self._count("answered")
        return Response(status=reply.status, headers=kept, content=reply.content)

    def _refusal(
        self, status: int, why: str, *, kind: str = "about:blank", headers: tuple[tuple[str, str], ...] = ()
    ) -> Response:
        self._count(why)
        fields = (("content-type", PROBLEM_TYPE), *headers)
        return Response(status=status, headers=fields, content=problem(why, kind))

    def _count(self, outcome: str) -> None:
        with self._lock:
            self._outcomes[outcome] += 1
