"""Binary HTTP against RFC 9292's own examples, laws, and bytes that mean harm."""

import time
import tracemalloc
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk.device.oblivious import binary_http
from sdk.device.oblivious.binary_http import Interim, Message, Request, Response, decode, encode, size_class
from sdk.errors import BinaryHttpError

AGENT = "curl/7.16.3 libcurl/7.16.3 OpenSSL/0.9.7l zlib/1.2.3"
REQUEST = Request(
    method="GET",
    scheme="https",
    authority="",
    path="/hello.txt",
    headers=(("user-agent", AGENT), ("host", "www.example.com"), ("accept-language", "en, mi")),
)
KNOWN_REQUEST = bytes.fromhex(
    "00034745 54056874 74707300 0a2f6865 6c6c6f2e 74787440 6c0a7573 65722d61 67656e74 34637572 6c2f372e 31362e33"
    "206c6962 6375726c 2f372e31 362e3320 4f70656e 53534c2f 302e392e 376c207a 6c69622f 312e322e 3304686f 73740f77"
    "77772e65 78616d70 6c652e63 6f6d0f61 63636570 742d6c61 6e677561 67650665 6e2c206d 690000"
)
OPEN_REQUEST = bytes.fromhex(
    "02034745 54056874 74707300 0a2f6865 6c6c6f2e 7478740a 75736572 2d616765 6e743463 75726c2f 372e3136 2e33206c"
    "69626375 726c2f37 2e31362e 33204f70 656e5353 4c2f302e 392e376c 207a6c69 622f312e 322e3304 686f7374 0f777777"
    "2e657861 6d706c65 2e636f6d 0f616363 6570742d 6c616e67 75616765 06656e2c 206d6900 00000000 00000000 00000000"
)
RESPONSE = Response(
    status=200,
    headers=(
        ("date", "Mon, 27 Jul 2009 12:28:53 GMT"),
        ("server", "Apache"),
        ("last-modified", "Wed, 22 Jul 2009 19:15:56 GMT"),
        ("etag", '"34aa387-d-1568eb00"'),
        ("accept-ranges", "bytes"),
        ("content-length", "51"),
        ("vary", "Accept-Encoding"),
        ("content-type", "text/plain"),
    ),
    content=b"Hello World! My content includes a trailing CRLF.\r\n",
    interim=(
        Interim(status=102, headers=(("running", '"sleep 15"'),)),
        Interim(
            status=103,
            headers=(
                ("link", "</style.css>; rel=preload; as=style"),
                ("link", "</script.js>; rel=preload; as=script"),
            ),
        ),
    ),
)
OPEN_RESPONSE = bytes.fromhex(
    "03406607 72756e6e 696e670a 22736c65 65702031 35220040 67046c69 6e6b233c 2f737479 6c652e63 73733e3b 2072656c"
    "3d707265 6c6f6164 3b206173 3d737479 6c65046c 696e6b24 3c2f7363 72697074 2e6a733e 3b207265 6c3d7072 656c6f61"
    "643b2061 733d7363 72697074 0040c804 64617465 1d4d6f6e 2c203237 204a756c 20323030 39203132 3a32383a 35332047"
    "4d540673 65727665 72064170 61636865 0d6c6173 742d6d6f 64696669 65641d57 65642c20 3232204a 756c2032 30303920"
    "31393a31 353a3536 20474d54 04657461 67142233 34616133 38372d64 2d313536 38656230 30220d61 63636570 742d7261"
    "6e676573 05627974 65730e63 6f6e7465 6e742d6c 656e6774 68023531 04766172 790f4163 63657074 2d456e63 6f64696e"
    "670c636f 6e74656e 742d7479 70650a74 6578742f 706c6169 6e003348 656c6c6f 20576f72 6c642120 4d792063 6f6e7465"
    "6e742069 6e636c75 64657320 61207472 61696c69 6e672043 524c462e 0d0a0000"
)
TRAILED = Response(status=200, content=b"This content contains CRLF.\r\n", trailers=(("trailer", "text"),))
KNOWN_TRAILED = bytes.fromhex(
    "0140c800 1d546869 7320636f 6e74656e 7420636f 6e746169 6e732043 524c462e 0d0a0d07 74726169 6c657204 74657874"
)


@pytest.mark.parametrize(
    ("message", "known", "encoded"),
    [
        (REQUEST, True, KNOWN_REQUEST),
        (REQUEST, False, OPEN_REQUEST[:-10]),
        (RESPONSE, False, OPEN_RESPONSE),
        (TRAILED, True, KNOWN_TRAILED),
    ],
)
def test_the_examples_of_rfc_9292_are_written_and_read_byte_for_byte(
    message: Message, known: bool, encoded: bytes
) -> None:
    assert encode(message, known_length=known) == encoded
    assert decode(encoded) == message


def test_the_padded_example_of_rfc_9292_is_written_and_read() -> None:
    assert encode(REQUEST, known_length=False, padded_to=len(OPEN_REQUEST)) == OPEN_REQUEST
    assert decode(OPEN_REQUEST) == REQUEST


@pytest.mark.parametrize(("whole", "removable"), [(KNOWN_REQUEST, 2), (OPEN_REQUEST, 12)])
def test_an_example_may_be_cut_as_far_as_the_rfc_says_and_no_further(whole: bytes, removable: int) -> None:
    for cut in range(removable + 1):
        assert decode(whole[: len(whole) - cut]) == REQUEST
    control = whole.index(b"/hello.txt") + len(b"/hello.txt")
    assert decode(whole[:control]) == replace(REQUEST, headers=())  # Here, too: before a section's first byte.
    for end in set(range(len(whole) - removable)) - {control}:
        with pytest.raises(BinaryHttpError):
            decode(whole[:end])


def test_empty_ends_are_left_out_where_that_is_asked_for() -> None:
    assert encode(Response(status=200), cut=True) == bytes.fromhex("0140c8")
    assert encode(REQUEST, cut=True) == KNOWN_REQUEST[:-2]


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        ("", "ends where its framing indicator"),
        ("04", "framing indicator 4"),
        ("0140c7", "ends where its length of headers"),
        ("014258", "status 600"),
        ("0101", "status 1 "),
        ("000347455405687474707300002f", "no path"),
        ("00034745540568747470730562402e636f012f", "no authority"),
        ("0001200568747470730161012f", "no method"),
        ("0140c80401410130ff", "bytes other than zero|ends"),
        ("0140c8020130", "ends"),
        ("0140c804013a0130", "no name of a field"),
        ("0140c80401410120", "a value that no HTTP"),
        ("0140c8030141010a", "a value that no HTTP|ends"),
        ("0140c8020041", "has no name"),
        ("0140c800ffffffffffffffff", "bytes are said"),
        ("0340c800c0000000ffffffff", "bytes are said"),
        ("0140c80000000001", "other than zero"),
    ],
)
def test_malformed_bytes_are_refused_and_the_words_say_where(encoded: str, why: str) -> None:
    with pytest.raises(BinaryHttpError, match=why):
        decode(bytes.fromhex(encoded))


@pytest.mark.parametrize("name", [":method", ":scheme", ":authority", ":path", ":status", ":protocol"])
def test_pseudo_fields_are_refused(name: str) -> None:
    line = bytes([len(name)]) + name.encode() + b"\x01x"
    with pytest.raises(BinaryHttpError, match="no name of a field"):
        decode(bytes.fromhex("0140c8") + bytes([len(line)]) + line)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (b"\x40\x64" * 17, "informational"),
        (b"\x40\xc8" + b"\x01a\x01b" * 129 + b"\0", "more than 128 fields"),
        (b"\x40\xc8" + (b"\x01a\x40\xff" + b"b" * 255) * 300 + b"\0", "fields or 65536 bytes"),
        (b"\x40\xc8\x00" + b"\x01a" * 65_537 + b"\0", "more than 65536 pieces"),
    ],
)
def test_a_message_that_is_made_to_cost_much_is_refused(more: bytes, why: str) -> None:
    interim = more.replace(b"\x40\x64", b"\x40\x64\x00")
    with pytest.raises(BinaryHttpError, match=why):
        decode(b"\x03" + interim)


def test_a_message_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(BinaryHttpError, match="over the limit of 8"):
        decode(KNOWN_REQUEST, limit=8)


@pytest.mark.parametrize(
    "message",
    [
        Response(status=600),
        Response(status=200, headers=(("a", "b\r\nc: d"),)),
        Response(status=200, headers=(("a b", "c"),)),
        Response(status=200, headers=(("a", "€"),)),
        Request(method="GET", scheme="https", authority="user@host", path="/"),
        Request(method="GET", scheme="https", authority="host", path="no/slash"),
        Request(method="GET", scheme="https", authority="host", path="/a b"),
    ],
)
def test_what_no_decoder_would_take_is_not_written(message: Message) -> None:
    with pytest.raises(BinaryHttpError):
        encode(message)


@pytest.mark.parametrize(("length", "padded"), [(0, 4096), (4096, 4096), (4097, 8192), (8192, 8192), (70_000, 131_072)])
def test_sizes_fall_into_classes(length: int, padded: int) -> None:
    assert size_class(length) == padded


TOKENS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_!", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=90)
FIELDS = st.lists(st.tuples(TOKENS, VALUES), max_size=4).map(tuple)
CONTENT = st.binary(max_size=300)
REQUESTS = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST", "PUT"]),
    scheme=st.sampled_from(["http", "https"]),
    authority=st.sampled_from(["", "example.com", "[::1]:8000"]),
    path=st.sampled_from(["/", "/v1/chat", "*"]),
    headers=FIELDS,
    content=CONTENT,
    trailers=FIELDS,
)
INTERIMS = st.lists(st.builds(Interim, status=st.integers(100, 199), headers=FIELDS), max_size=3).map(tuple)
RESPONSES = st.builds(
    Response, status=st.integers(200, 599), headers=FIELDS, content=CONTENT, trailers=FIELDS, interim=INTERIMS
)
MESSAGES = REQUESTS | RESPONSES


@settings(max_examples=40)
@given(MESSAGES, st.booleans(), st.booleans(), st.integers(0, 600), st.integers(1, 100))
def test_what_is_written_is_read_back(message: Message, known: bool, cut: bool, padded: int, chunk: int) -> None:
    encoded = encode(message, known_length=known, cut=cut, padded_to=padded, chunk_bytes=chunk)
    assert decode(encoded) == message
    assert len(encoded) >= padded


@settings(max_examples=50)
@given(MESSAGES, st.booleans(), st.data())
def test_changed_or_cut_bytes_are_read_as_something_or_refused_with_the_one_error(
    message: Message, known: bool, data: st.DataObject
) -> None:
    encoded = bytearray(encode(message, known_length=known))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(encoded[: data.draw(st.integers(0, len(encoded)))]))
    except BinaryHttpError:
        return
    assert decode(encode(found)) == found


@settings(max_examples=80)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_the_one_error(noise: bytes) -> None:
    try:
        found = decode(noise)
    except BinaryHttpError:
        return
    assert decode(encode(found)) == found


@pytest.mark.parametrize(
    "harm",
    [
        b"\x03" + b"\x40\xc8" + b"\x01a\x01b" * 100_000,
        b"\x03\x40\xc8\x00" + b"\x02ab" * 200_000,
        b"\x01\x40\xc8" + b"\xff" * 400_000,
        b"\x01\x40\xc8" + b"\0" * 400_000,
        b"\x03" + b"\x40\x64\x00" * 100_000,
        b"\x01\x40\xc8" + b"\x80\x0f\xff\xff\x01a\x80\x0f\xff\xf0" + b" " * 1_048_560 + b"x",
    ],
)
def test_harmful_bytes_take_little_time_and_memory(harm: bytes) -> None:
    begun = time.process_time()
    with suppress(BinaryHttpError):
        decode(harm)
    assert time.process_time() - begun < 2
    tracemalloc.start()  # By itself, since watching memory takes longer than decoding.
    with suppress(BinaryHttpError):
        decode(harm)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * len(harm)


def test_without_its_limit_a_decoder_would_take_much_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded mutant of the limits: the test above sees memory that nothing bounds."""
    monkeypatch.setattr(binary_http, "MAX_CHUNKS", 10**9)
    tracemalloc.start()
    decode(b"\x03\x40\xc8\x00" + b"\x02ab" * 200_000 + b"\0")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak > 12 * 600_000
