"""A mailbox file in; what one person wrote in it out, in time order, without quotes and signatures."""

import mailbox
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC
from email import message_from_bytes
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.utils import getaddresses, parsedate_to_datetime
from pathlib import Path

from personalize.errors import SourceError
from personalize.experience import Experience, plain
from personalize.sources.files import checked
from personalize.sources.records import check_not_too_many, is_robot, timeline, usable

__all__ = ["from_mbox", "mbox_authors", "own_words"]

# What the standard library raises on malformed mail.
_HOSTILE = (ValueError, LookupError, TypeError, AttributeError, MessageError, RecursionError)
_MAX_HEADER_CHARS = 2_000  # Any subject and the first recipients; decoding takes the square of the length.
_MAX_BODY_CHARS = 200_000  # Nobody types more into one message; what follows is pasted.
_MAX_ATTRIBUTION_LINES = 3  # "On … wrote:" is wrapped by mail programs, but not further than this.
_MAX_ATTRIBUTION_CHARS = 400  # A date, a name and an address.
_DATED_ATTRIBUTION = re.compile(
    r"(on|am|le|el|il|em|op)\b.*\b(wrote|schrieb|écrit|escribió|scritto|escreveu|schreef)\b.*:",
    re.IGNORECASE | re.DOTALL,
)
_BARE_ATTRIBUTION = re.compile(r".*\b(wrote|writes|schrieb|écrit) ?:", re.IGNORECASE)
_OTHERS_FOLLOW = re.compile(r"-+ ?(original|forwarded) message ?-+|begin forwarded message:|_{20,}", re.IGNORECASE)
_REPLY_MARKS = re.compile(r"^((re|aw|fwd?|wg|sv)(\[\d+\])?: *)+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class _Mail:
    author: str
    """Address of the sender, lower case."""
    robot: bool
    """True if a program sent it."""
    experience: Experience | None
    """What the sender wrote; None where nothing is usable."""


def mbox_authors(path: Path) -> list[tuple[str, int]]:
    """Return the addresses of those who sent the mailbox's messages, with how many, the most active first.

    Raises:
        SourceError: The file cannot be used, or has no message by a person.
    """
    return _ranked(list(_mails(path)), path)


def from_mbox(path: Path, author: str | None = None) -> list[Experience]:
    """Take the messages that one author sent, oldest first; without `author`, those of whoever sent most of them.

    A record's answer is the plain text that the author typed, its prompt the subject, its time the Date header, its
    contact the first recipient. Messages of programs, without a date or plain text, and repeats are left out.

    Raises:
        SourceError: The file cannot be used, or that author sent no message; up to three who did are named.
    """
    mails = list(_mails(path))
    ranked = _ranked(mails, path)
    wanted = ranked[0][0] if author is None else author.strip().lower()
    if all(mail.author != wanted for mail in mails):
        others = ", ".join(f"{address} ({count})" for address, count in ranked[:3])
        more = ", …" if len(ranked) > 3 else ""
        raise SourceError(f"{path} has 0 messages by {author}; choose an author it has: {others}{more}")
    found = (mail.experience for mail in mails if mail.author == wanted)
    return timeline(found, lambda experience: (experience.prompt, experience.answer), str(path))


def own_words(body: str) -> str:
    """Return what the sender typed: without quoted lines and who is quoted, signature, and messages sent along."""
    kept: list[str] = []
    quoting = False
    for line in plain(body).split("\n"):
        if line.rstrip() == "--" or _OTHERS_FOLLOW.match(line.strip()):
            break
        quoted = line.lstrip().startswith(">") and not line.startswith(">From ")
        if quoted and not quoting:
            _drop_attribution(kept)
        if not quoted:
            kept.append("From " + line[6:] if line.startswith(">From ") else line)  # The file format's own mark.
        quoting = quoted
    return "\n".join(kept)


def _drop_attribution(kept: list[str]) -> None:
    """Take away who is quoted, from the end of the lines before a quote."""
    while kept and not kept[-1].strip():
        kept.pop()
    for count in range(1, min(_MAX_ATTRIBUTION_LINES, len(kept)) + 1):
        ending = "\n".join(kept[-count:]).strip()
        if not kept[-count].strip() or len(ending) > _MAX_ATTRIBUTION_CHARS:
            break
        if _DATED_ATTRIBUTION.fullmatch(ending):
            del kept[-count:]
            return
    if kept and len(kept[-1]) <= _MAX_ATTRIBUTION_CHARS and _BARE_ATTRIBUTION.fullmatch(kept[-1].strip()):
        kept.pop()


def _ranked(mails: list[_Mail], path: Path) -> list[tuple[str, int]]:
    counted = Counter(mail.author for mail in mails if mail.author and not mail.robot)
    if not counted:
        raise SourceError(f"{path} has 0 messages by people; give a mailbox in mbox format, such as your sent mail")
    return sorted(counted.items(), key=lambda entry: (-entry[1], entry[0]))


def _mails(path: Path) -> Iterator[_Mail]:
    checked(path)
    with closing(mailbox.mbox(str(path), create=False)) as box:
        check_not_too_many(len(box), "messages", str(path))
        for key in box.iterkeys():
            try:
                yield _mail(message_from_bytes(box.get_bytes(key)))
            except _HOSTILE:
                continue  # One malformed message is left out; the others are still the person's.


def _mail(message: Message) -> _Mail:
    senders = getaddresses([_header(message, "From")])
    name, author = senders[0] if senders else ("", "")
    return _Mail(author=author.lower(), robot=is_robot(f"{name} <{author}>"), experience=_experience(message))


def _experience(message: Message) -> Experience | None:
    try:
        at = parsedate_to_datetime(str(message["Date"]))
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    recipients = [address for _, address in getaddresses([_header(message, "To")]) if address]
    return usable(
        prompt=_REPLY_MARKS.sub("", " ".join(_header(message, "Subject").split())),
        answer=own_words(_plain_text(message)[:_MAX_BODY_CHARS]),
        at=at if at.tzinfo else at.replace(tzinfo=UTC),
        contact=recipients[0] if recipients else None,
    )


def _header(message: Message, name: str) -> str:
    raw = str(message.get(name, ""))[:_MAX_HEADER_CHARS]
    try:
        return str(make_header(decode_header(raw)))
    except (ValueError, LookupError, MessageError):
        return raw


def _plain_text(message: Message) -> str:
    for part in message.walk():
        if part.get_content_type() == "text/plain" and part.get_content_disposition() != "attachment":
            content = part.get_payload(decode=True)
            if isinstance(content, bytes):
                return _decoded(content, part.get_content_charset("utf-8"))
    return ""


def _decoded(content: bytes, charset: str) -> str:
    try:
        return content.decode(charset, "replace")
    except (LookupError, ValueError):
        return content.decode("utf-8", "replace")
