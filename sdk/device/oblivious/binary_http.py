"""An HTTP message in, its binary form out, and back: known and indeterminate length, padding, truncation.

What a decoder checks, in this order:

(1) The whole is no longer than its limit, and every length fits into what is left: nothing is read or kept beyond.
(2) Framing is 0 to 3; control data are a method, a scheme, an authority and a path, or a status from 100 to 599.
(3) Fields are few and short, their names tokens, their values without line ends; none begins with a colon, since this
    version knows no pseudo-field (RFC 9113, section 8.3: an undefined one makes a message malformed).
(4) The message ends where it may be cut off, or is followed by zero bytes only.

Source: RFC 9292. Integers are QUIC's (RFC 9000, section 16).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from sdk.errors import BinaryHttpError

__all__ = ["MAX_MESSAGE_BYTES", "Fields", "Interim", "Message", "Request", "Response", "decode", "encode", "size_class"]

MAX_MESSAGE_BYTES = 8 * 1024 * 1024  # Refused before parsing: a long answer of a large model is some dozens of kB.
MAX_FIELDS = 128  # Of one section.
MAX_FIELD_SECTION_BYTES = 64 * 1024  # What web servers allow at most.
MAX_INTERIM = 16  # Informational responses before the real one; a useful server sends two.
MAX_CHUNKS = 65_536  # Chunks of one byte each would cost a hundred times their size.
SMALLEST_CLASS_BYTES = 4096
LARGEST = 2**62 - 1  # What a variable-length integer holds.

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2.
VALUE = re.compile(rb"(?:[^\x00\r\n\t ](?:[^\x00\r\n]*[^\x00\r\n\t ])?)?")  # RFC 9113, section 8.2.1.
SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*")
AUTHORITY = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*")  # No @: user information does not belong there.
PATH = re.compile(rb"/[!-~]*|\*")  # RFC 9113, section 8.3.1.

Fields = tuple[tuple[str, str], ...]
"""Names, lower-case, and values; a byte above 127 is the Latin-1 character of that number."""


@dataclass(frozen=True, kw_only=True)
class Interim:
    """An informational response."""

    status: int
    """100 to 199."""
    headers: Fields = ()


@dataclass(frozen=True, kw_only=True)
class Request:
    """An HTTP request."""

    method: str
    scheme: str
    authority: str
    """Host and port; may be empty where a header `host` stands for it."""
    path: str
    headers: Fields = ()
    content: bytes = b""
    trailers: Fields = ()

    def header(self, name: str) -> str | None:
        """The value of the first header of this name."""
        return _first(self.headers, name)


@dataclass(frozen=True, kw_only=True)
class Response:
    """An HTTP response."""

    status: int
    """200 to 599."""
    headers: Fields = ()
    content: bytes = b""
    trailers: Fields = ()
    interim: tuple[Interim, ...] = ()

    def header(self, name: str) -> str | None:
        """The value of the first header of this name."""
        return _first(self.headers, name)


Message = Request | Response


def encode(
    message: Message, *, known_length: bool = True, padded_to: int = 0, cut: bool = False, chunk_bytes: int = 16 * 1024
) -> bytes:
    """Write a message.

    Args:
        message: What to write.
        known_length: False takes the form whose sections end with a zero instead of beginning with their length.
        padded_to: Zero bytes follow up to this length; nothing is cut where the message is longer.
        cut: Leave out what is empty at the end, as RFC 9292, section 3.8, allows.
        chunk_bytes: Longest piece of content in the form without lengths, ≥ 1.

    Raises:
        BinaryHttpError: The message has no such form: no decoder would take it.
    """
    section = _known_section if known_length else _open_section
    parts = [_integer((0 if isinstance(message, Request) else 1) + (0 if known_length else 2))]
    if isinstance(message, Request):
        control = (message.method, message.scheme, message.authority, message.path)
        parts += [_prefixed(_bytes(text)) for text in control]
    else:
        for one in message.interim:
            parts += [_integer(one.status), section(one.headers)]
        parts.append(_integer(message.status))
    content = _prefixed(message.content) if known_length else _chunks(message.content, chunk_bytes)
    tail = [section(message.headers), content, section(message.trailers)]
    while cut and tail and tail[-1] == b"\0":
        tail.pop()
    encoded = b"".join(parts + tail)
    if decode(encoded, limit=max(len(encoded), 1)) != _lowered(message):
        raise BinaryHttpError("the message has no binary form; look for control characters in its fields")
    return encoded + bytes(max(0, padded_to - len(encoded)))


def decode(encoded: bytes, *, limit: int = MAX_MESSAGE_BYTES) -> Message:
    """Read a message.

    Args:
        encoded: All of it.
        limit: Longest message that is read, in bytes.

    Raises:
        BinaryHttpError: It is longer, or malformed; the words say where.
    """
    if len(encoded) > limit:
        raise BinaryHttpError(f"a binary HTTP message of {len(encoded)} bytes is over the limit of {limit}")
    reader = _Reader(encoded)
    framing = reader.integer("framing indicator")
    if framing > 3:
        raise BinaryHttpError(f"framing indicator {framing} is none of 0, 1, 2, 3")
    known = framing < 2
    message = _request(reader, known) if framing % 2 == 0 else _response(reader, known)
    reader.expect_padding()
    return message


def size_class(length: int) -> int:
    """The length that a message is padded to: the next of 4, 8, 16, … KiB.

    Most questions are shorter than 4 KiB and so look alike; of a longer one an observer learns one of a few classes.
    """
    return max(SMALLEST_CLASS_BYTES, 1 << max(0, length - 1).bit_length())


def _request(reader: "_Reader", known: bool) -> Request:
    method = reader.matching("method", TOKEN)
    scheme = reader.matching("scheme", SCHEME)
    authority = reader.matching("authority", AUTHORITY)
    path = reader.matching("path", PATH)
    headers, content, trailers = _tail(reader, known)
    return Request(
        method=method, scheme=scheme, authority=authority, path=path,
        headers=headers, content=content, trailers=trailers,
    )  # fmt: skip


def _response(reader: "_Reader", known: bool) -> Response:
    interim: list[Interim] = []
    while 100 <= (status := reader.integer("status")) < 200:
        if len(interim) == MAX_INTERIM:
            raise BinaryHttpError(f"over {MAX_INTERIM} informational responses precede the real one")
        interim.append(Interim(status=status, headers=reader.section("headers", known)))
    if not 200 <= status <= 599:
        raise BinaryHttpError(f"status {status} is not between 100 and 599")
    headers, content, trailers = _tail(reader, known)
    return Response(status=status, headers=headers, content=content, trailers=trailers, interim=tuple(interim))


def _tail(reader: "_Reader", known: bool) -> tuple[Fields, bytes, Fields]:
    """Headers, content and trailers; each may be missing if all after it are."""
    headers = reader.section("headers", known) if reader.left else ()
    content = (reader.prefixed("content") if known else reader.chunks()) if reader.left else b""
    trailers = reader.section("trailers", known) if reader.left else ()
    return headers, content, trailers


class _Reader:
    """A place in bytes; each method reads one thing there or raises BinaryHttpError."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    @property
    def left(self) -> int:
        return len(self._content) - self._at

    def integer(self, what: str) -> int:
        if not self.left:
            raise BinaryHttpError(f"the message ends where its {what} should be")
        first = self._content[self._at]
        width = 1 << (first >> 6)  # 1, 2, 4 or 8 bytes, by the two highest bits.
        return int.from_bytes(self._taken(width, what)) & ((1 << (8 * width - 2)) - 1)

    def prefixed(self, what: str) -> bytes:
        return self._taken(self.integer(f"length of {what}"), what)

    def matching(self, what: str, pattern: re.Pattern[bytes]) -> str:
        found = self.prefixed(what)
        if not pattern.fullmatch(found):
            raise BinaryHttpError(f"{found[:40]!r} is no {what} of an HTTP request")
        return found.decode("latin-1")

    def section(self, what: str, known: bool) -> Fields:
        if known:
            inside = _Reader(self.prefixed(what))
            fields = inside._fields(what, lambda: inside.integer("length of a field's name") if inside.left else 0)
            if inside.left:
                raise BinaryHttpError(f"a field of the {what} has no name")
            return fields
        return self._fields(what, lambda: self.integer(f"end of the {what}"))

    def _fields(self, what: str, next_name_bytes: Callable[[], int]) -> Fields:
        begin, fields = self._at, list[tuple[str, str]]()
        while name_bytes := next_name_bytes():
            fields.append(_field(self._taken(name_bytes, "a field's name"), self.prefixed("a field's value")))
            if len(fields) > MAX_FIELDS or self._at - begin > MAX_FIELD_SECTION_BYTES:
                limits = f"{MAX_FIELDS} fields or {MAX_FIELD_SECTION_BYTES} bytes"
                raise BinaryHttpError(f"the {what} have more than {limits}")
        return tuple(fields)

    def chunks(self) -> bytes:
        parts: list[bytes] = []
        while length := self.integer("end of the content"):
            parts.append(self._taken(length, "content"))
            if len(parts) > MAX_CHUNKS:
                raise BinaryHttpError(f"the content comes in more than {MAX_CHUNKS} pieces")
        return b"".join(parts)

    def expect_padding(self) -> None:
        if self._content.count(0, self._at) != self.left:
            raise BinaryHttpError("bytes other than zero follow the end of the message")

    def _taken(self, length: int, what: str) -> bytes:
        if length > self.left:
            raise BinaryHttpError(f"the message ends within its {what}: {length} bytes are said, {self.left} are left")
        self._at += length
        return self._content[self._at - length : self._at]


def _field(name: bytes, value: bytes) -> tuple[str, str]:
    if not TOKEN.fullmatch(name):
        raise BinaryHttpError(f"{name[:40]!r} is no name of a field")
    if not VALUE.fullmatch(value):
        raise BinaryHttpError(f"the field {name.decode('latin-1')[:40]} has a value that no HTTP message carries")
    return name.decode("latin-1").lower(), value.decode("latin-1")


def _integer(value: int) -> bytes:
    if not 0 <= value <= LARGEST:
        raise BinaryHttpError(f"{value} is not between 0 and 2^62 - 1")
    width = next(width for width in (1, 2, 4, 8) if value < 1 << (8 * width - 2))
    return (value | (width.bit_length() - 1) << (8 * width - 2)).to_bytes(width)


def _prefixed(content: bytes) -> bytes:
    return _integer(len(content)) + content


def _line(name: str, value: str) -> bytes:
    return _prefixed(_bytes(name.lower())) + _prefixed(_bytes(value))


def _known_section(fields: Fields) -> bytes:
    return _prefixed(b"".join(_line(*field) for field in fields))


def _open_section(fields: Fields) -> bytes:
    return b"".join(_line(*field) for field in fields) + b"\0"


def _chunks(content: bytes, size: int) -> bytes:
    pieces = (content[at : at + size] for at in range(0, len(content), size))
    return b"".join(_prefixed(piece) for piece in pieces) + b"\0"


def _bytes(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as cause:
        raise BinaryHttpError(f"{text[:40]!r} holds characters that no HTTP field carries") from cause


def _lowered(message: Message) -> Message:
    """The message as a decoder gives it back: names in lower case."""

    def low(fields: Fields) -> Fields:
        return tuple((name.lower(), value) for name, value in fields)

    if isinstance(message, Response):
        interim = tuple(replace(one, headers=low(one.headers)) for one in message.interim)
        message = replace(message, interim=interim)
    return replace(message, headers=low(message.headers), trailers=low(message.trailers))


def _first(fields: Fields, name: str) -> str | None:
    return next((value for known, value in fields if known == name.lower()), None)
