import mailbox
import time
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personalize.errors import SourceError
from personalize.sources.mbox import from_mbox, mbox_authors, own_words

ANA, BOB = "Ana <ana@example.org>", "Bob <bob@example.org>"


def mail(body: str, *, sender: str = ANA, subject: str = "Lunch", day: int = 1, to: str = BOB) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, to, subject
    message["Date"] = f"Wed, {day:02} May 2024 14:00:00 +0200"
    message.set_content(body)
    return message


def saved(folder: Path, *messages: EmailMessage) -> Path:
    box = mailbox.mbox(folder / "sent.mbox")
    for message in messages:
        box.add(message)
    box.close()
    return folder / "sent.mbox"


def test_what_the_most_active_sender_wrote_becomes_records_in_time_order(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        mail("Later then.", day=3, subject="Re: AW: Lunch"),
        mail("At noon?", day=2, to=f"{BOB}, Eve <eve@example.org>"),
        mail("Fine with me.", sender=BOB),
        *(mail("Buy now!", sender="Shop <noreply@shop.example>", day=day) for day in (4, 5, 6)),
    )
    first, second = from_mbox(path)
    assert (first.answer, first.prompt, first.contact) == ("At noon?", "Lunch", "bob@example.org")
    assert first.at == datetime(2024, 5, 2, 12, tzinfo=UTC)
    assert (second.answer, second.prompt) == ("Later then.", "Lunch")
    assert mbox_authors(path) == [("ana@example.org", 2), ("bob@example.org", 1)]
    assert [record.answer for record in from_mbox(path, " BOB@example.org")] == ["Fine with me."]


def test_an_author_who_sent_nothing_is_refused_with_who_did(tmp_path: Path) -> None:
    path = saved(tmp_path, *(mail("Hi", sender=f"{name} <{name}@example.org>") for name in "abcd"))
    with pytest.raises(
        SourceError, match=r"has 0 messages by eve@example.org; .*: a@example.org \(1\), .*c@.*\(1\), …$"
    ):
        from_mbox(path, "eve@example.org")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("Yes.\n\nOn Tue, 30 Apr 2024, Bob wrote:\n> Lunch?\n> Now?\n", "Yes."),
        ("Yes.\n\nOn Tue, 30 Apr 2024 at 10:00, Bob\n<bob@example.org> wrote:\n\n> Lunch?\n", "Yes."),
        ("Am 30.04.24 um 10:00 schrieb Bob:\n> Hunger?\nJa.\n> Wann?\nJetzt.", "Ja.\nJetzt."),
        ("Bob wrote:\n > Lunch?\nYes.", "Yes."),
        ("Yes.\n-- \nAna\n+49 123\n", "Yes."),
        ("See below.\n\n-----Original Message-----\nFrom: Bob\nsecret", "See below."),
        ("FYI\n---------- Forwarded message ---------\nFrom: Eve", "FYI"),
        ("Yes.\n________________________________\nFrom: Bob", "Yes."),
        (">From here on it is mine.", "From here on it is mine."),
        ("I wrote:\nnothing quoted here", "I wrote:\nnothing quoted here"),
        ("a -- b\n--- c", "a -- b\n--- c"),
        ("> only\n> quotes", ""),
    ],
)
def test_quotes_signatures_and_messages_sent_along_are_taken_away(body: str, words: str) -> None:
    assert own_words(body).strip() == words


def test_a_plain_text_part_is_found_among_others_and_attachments_are_not(tmp_path: Path) -> None:
    message = mail("The plain part.")
    message.add_alternative("<p>The other part.</p>", subtype="html")
    message.add_attachment("attached text", filename="notes.txt")
    only_html = EmailMessage()
    only_html["From"], only_html["Date"] = ANA, "Wed, 08 May 2024 14:00:00 +0200"
    only_html.set_content("<p>No plain text.</p>", subtype="html")
    assert [record.answer for record in from_mbox(saved(tmp_path, message, only_html))] == ["The plain part."]


def test_encoded_subjects_and_bodies_are_decoded_and_hostile_ones_made_plain(tmp_path: Path) -> None:
    path = tmp_path / "sent.mbox"
    path.write_bytes(
        b"From ana Wed May  1 12:00:00 2024\nFrom: ana@example.org\nDate: Wed, 01 May 2024 12:00:00 -0000\n"
        b"Subject: =?utf-8?b?TcO2aHJl?=\nContent-Type: text/plain; charset=iso-8859-1\n"
        b"Content-Transfer-Encoding: quoted-printable\n\nGr=FC=DFe=1B[2J\n\n"
        b"From \xff\xfe\nFrom: ana@example.org\nDate: Thu, 02 May 2024 12:00:00 GMT\nSubject: =?no-such?q?x?=\n"
        b"Content-Type: text/plain; charset=no-such-code\n\nStill read\xe9\n\n"
    )
    first, second = from_mbox(path)
    assert (first.prompt, first.answer) == ("Möhre", "Grüße[2J")
    assert second.answer.startswith("Still read")


def test_messages_without_a_date_and_repeats_are_left_out(tmp_path: Path) -> None:
    undated = mail("No date.")
    del undated["Date"]
    strange = mail("Strange date.")
    strange.replace_header("Date", "the day after")
    path = saved(tmp_path, undated, strange, mail("Ping.", day=1), mail("Ping.", day=2), mail("Pong.", day=3))
    assert [record.answer for record in from_mbox(path)] == ["Ping.", "Pong."]


def test_a_hostile_header_and_body_are_read_only_in_part(tmp_path: Path) -> None:
    encoded_words, quotes = b"=?utf-8?q?a?= " * 300_000, b"> quote\nOn \n" * 300_000
    (tmp_path / "sent.mbox").write_bytes(
        b"From x\nFrom: ana@example.org\nDate: Wed, 01 May 2024 12:00:00 GMT\n"
        b"To: " + b"b@example.org, " * 300_000 + b"\nSubject: " + encoded_words + b"\n\nMine.\n" + quotes
    )
    started = time.monotonic()
    (record,) = from_mbox(tmp_path / "sent.mbox")
    assert time.monotonic() - started < 30  # Whole, the subject alone takes many minutes.
    assert (record.prompt[:3], record.contact, record.answer[:5]) == ("aaa", "b@example.org", "Mine.")


def test_a_message_that_the_parser_cannot_take_is_left_out_and_the_others_are_not(tmp_path: Path) -> None:
    path = saved(tmp_path, mail("Hello."))
    parts = "".join(f"Content-Type: multipart/mixed; boundary=b{depth}\n\n--b{depth}\n" for depth in range(3_000))
    with path.open("a") as file:
        file.write(f"\nFrom x\nFrom: ana@example.org\nDate: Wed, 01 May 2024 12:00:00 GMT\n{parts}")
    assert [record.answer for record in from_mbox(path)] == ["Hello."]
    assert mbox_authors(path) == [("ana@example.org", 1)]


def test_a_file_that_is_no_mailbox_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Dear diary,\n\ntoday.\n")
    with pytest.raises(SourceError, match="has 0 messages by people; give a mailbox in mbox format"):
        from_mbox(tmp_path / "notes.txt")


def test_a_mailbox_is_not_changed_by_reading(tmp_path: Path) -> None:
    path = saved(tmp_path, mail("Hello."))
    before = path.read_bytes()
    from_mbox(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["sent.mbox"]


HEADERS = st.sampled_from(
    ["From", "To", "Subject", "Date", "Content-Type", "Content-Transfer-Encoding", "MIME-Version"]
)
VALUES = st.sampled_from(
    [
        "ana@example.org",
        "multipart/mixed; boundary=x",
        "text/plain; charset=\ufffd",
        "base64",
        "=?utf-8?b?!!?=",
        "x-uuencode",
        "Wed, 99 May 99999 25:00:00 +9999",
        "Wed, 01 May 2024 12:00:00 GMT",
        "message/rfc822",
        "text/plain; charset*=a''b",
    ]
) | st.text(max_size=30)
MESSAGES = st.builds(
    lambda headers, body: "\n".join(
        ["From x", *(f"{name}: {value}" for name, value in headers), "", body, ""]
    ).encode(),
    st.lists(st.tuples(HEADERS, VALUES), max_size=8),
    st.text(max_size=80) | st.just("--x\n\na\n--x\nContent-Type: text/plain\n\nb\n--x--"),
)


@given(content=st.lists(MESSAGES | st.binary(), max_size=4).map(b"\n".join))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mailbox_gives_records_or_one_clear_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "any.mbox").write_bytes(content)
    try:
        outcome: object = from_mbox(tmp_path / "any.mbox")
    except SourceError as refused:
        outcome = str(refused)
    assert ";" in outcome if isinstance(outcome, str) else outcome
