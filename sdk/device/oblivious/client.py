"""A request in, its answer out, by a relay that sees no content and a gateway that sees no address.

What becomes of what can happen:

(1) The gateway does not know the key: keys are fetched again, and if they changed the request is sealed and sent anew,
    once. The gateway opened nothing then, so nothing is done twice.
(2) The gateway finds the date wrong: sealed and sent anew with the gateway's date, once; that date is used for nothing
    else (RFC 9458, section 6.5.2).
(3) Anything else, and any connection that breaks: an error. A question is never repeated on a guess.

All requests of one size class have the same length, and so have all answers.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime

from sdk.device.oblivious.binary_http import Request, Response, decode, encode, size_class
from sdk.device.oblivious.encapsulation import REQUEST_TYPE, RESPONSE_TYPE, seal_request
from sdk.device.oblivious.key_configurations import chosen
from sdk.device.oblivious.key_source import KeySource
from sdk.device.oblivious.problems import DATE_PROBLEM, KEY_PROBLEM, is_problem
from sdk.device.oblivious.wire import Address, Deadline, Reply, exchange
from sdk.errors import BinaryHttpError, CloudGarbledError, ObliviousError

__all__ = ["ObliviousClient", "Traffic"]

MAX_ANSWER_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What an observer of the line could count."""

    sent_bytes: int
    """Sealed request, without HTTP headers; of all attempts."""
    received_bytes: int


class ObliviousClient:
    """The way through one relay to one gateway."""

    def __init__(self, relay: str, keys: KeySource) -> None:
        """Nothing is asked yet.

        Args:
            relay: Its address.
            keys: Of the gateway behind it.

        Raises:
            CloudError: The address is none.
        """
        self.relay = Address.of(relay, "relay")
        self._keys = keys

    def ask(self, request: Request, deadline: Deadline) -> tuple[Response, Traffic]:
        """Send a request and wait for its answer.

        Args:
            request: For the target behind the gateway. Its `Date` is set here.
            deadline: For everything, keys included.

        Returns:
            The answer of the target, or of the gateway in its place, and what it took.

        Raises:
            CloudUnreachableError: The relay gave no whole answer by then.
            CloudGarbledError: What came is no sealed answer, such as a login page.
            ObliviousError: Keys, sealing, relay or gateway; see its children.
        """
        date, renewed, corrected = _minute(datetime.now(UTC)), False, False
        sent = received = 0
        while True:
            sealed = seal_request(*chosen(self._keys.current(deadline)), _padded(_dated(request, date)))
            reply = self._post(sealed.request, deadline)
            sent, received = sent + len(sealed.request), received + len(reply.content)
            if _names(reply, KEY_PROBLEM) and not renewed:
                renewed = True
                if self._keys.renew(deadline):
                    continue
            self._check(reply)
            response = _response(sealed.open(reply.content))
            their_date = response.header("date")
            if their_date and not corrected and is_problem(response.content, DATE_PROBLEM):
                date, corrected = their_date, True
                continue
            return response, Traffic(sent_bytes=sent, received_bytes=received)

    def _post(self, content: bytes, deadline: Deadline) -> Reply:
        headers = {"Content-Type": REQUEST_TYPE, "Accept": RESPONSE_TYPE}
        return exchange(
            "POST", self.relay, self.relay.path,
            headers=headers, content=content, deadline=deadline, limit=MAX_ANSWER_BYTES,
        )  # fmt: skip

    def _check(self, reply: Reply) -> None:
        if _names(reply, KEY_PROBLEM):
            raise ObliviousError("the gateway does not know its own published key; its operator must look, try later")
        if reply.status != 200:
            raise ObliviousError(f"the relay {self.relay.host} answers {reply.status}; nobody read the question")
        if reply.media_type != RESPONSE_TYPE:
            kind = reply.media_type or "no type"
            raise CloudGarbledError(
                f"the relay {self.relay.host} answers with {kind!r:.60}; a login page of the network?"
            )


def _minute(now: datetime) -> str:
    """The time as a header, to the minute: the seconds of a clock can tell machines apart."""
    return format_datetime(now.replace(second=0, microsecond=0), usegmt=True)


def _dated(request: Request, date: str) -> Request:
    others = tuple(field for field in request.headers if field[0].lower() != "date")
    return replace(request, headers=(*others, ("date", date)))


def _padded(request: Request) -> bytes:
    plain = encode(request)
    return encode(request, padded_to=size_class(len(plain)))


def _response(content: bytes) -> Response:
    message = decode(content)
    if not isinstance(message, Response):
        raise BinaryHttpError("the gateway answers with a request")
    return message


def _names(reply: Reply, problem: str) -> bool:
    return 400 <= reply.status < 500 and is_problem(reply.content, problem)
