"""A text in, where something in it is personal out: e-mail, cards, telephone numbers and the like, found offline.

Each kind is a pattern and, where the kind has one, a check of its digits: Luhn (ISO/IEC 7812-1) for cards, mod 97 (ISO
7064) for IBAN, `ipaddress` for addresses, `phonenumbers` for telephone numbers. What is not found, on purpose: dates
that nobody calls a birthday (device tasks need them), names that are neither listed nor announced ("Mr", "my name is"),
and numbers without a check or a word beside them that says what they are.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import phonenumbers

__all__ = ["Span", "found", "iban_holds", "luhn_holds"]

MAX_PHONE_TRIES = 10_000  # phonenumbers' own limit is 65,535 tries in one text; ours are messages.


class Span(NamedTuple):
    """A personal part of a text."""

    start: int
    end: int
    kind: str
    """PERSON, EMAIL, URL, IP, CARD, IBAN, PHONE, BIRTH, ADDRESS, ID or SECRET."""


MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
DATE = (
    rf"(?:\d{{1,4}}[./-]\d{{1,2}}[./-]\d{{1,4}}|\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{MONTH},?\s+\d{{2,4}}"
    rf"|{MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+\d{{2,4}})"
)
WAY = (
    "street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd|court|ct|place|pl|square|sq|terrace|way|close"
    "|crescent|parkway|pkwy|highway|hwy"
)
CAPITAL = r"[A-ZÀ-ÖØ-Þ][\w'’.-]*"

PATTERNS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...]
"""Kind, pattern and check; group `it` is the personal part where the pattern has one."""
GROUPED = ("CARD", "IBAN")  # Written in groups, so that the next word or number may look like one more group.


def luhn_holds(digits: str) -> bool:
    """Whether a number's last digit follows from the others by Luhn's rule."""
    total = 0
    for place, one in enumerate(reversed(digits)):
        doubled = int(one) * (1 + place % 2)
        total += doubled - 9 * (doubled > 9)
    return total % 10 == 0


def iban_holds(written: str) -> bool:
    """Whether an IBAN's check digits follow from the rest; blanks do not count."""
    code = "".join(written.split()).upper()
    if not 15 <= len(code) <= 34:
        return False
    return int("".join(str(int(one, 36)) for one in code[4:] + code[:4])) % 97 == 1


def _is_card(written: str) -> bool:
    digits = re.sub(r"\D", "", written)
    return 13 <= len(digits) <= 19 and digits[0] in "23456" and len(set(digits)) > 1 and luhn_holds(digits)


def _is_ip(written: str) -> bool:
    try:
        return not ipaddress.ip_address(written.partition("%")[0]).is_unspecified
    except ValueError:
        return False


def _is_ssn(written: str) -> bool:
    area, group, serial = written.replace(" ", "-").split("-")
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"


def _always(written: str) -> bool:
    return True


def _pattern(text: str, flags: int = re.IGNORECASE) -> re.Pattern[str]:
    return re.compile(text, flags)


PATTERNS = (
    (
        "SECRET",
        _pattern(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S),
        _always,
    ),
    ("URL", _pattern(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/@:]+:[^\s/@]+@[^\s<>\"']+"), _always),
    (
        "URL",
        _pattern(
            r"\bhttps?://[^\s<>\"']{0,500}[?&#](?:access_token|token|key|api_?key|secret|password|pwd|auth|sig|signature"
            r"|session(?:id)?|code)=[^\s<>\"']+"
        ),
        _always,
    ),
    ("EMAIL", _pattern(r"(?<![\w.+-])[\w.!#$%&*+/=?^{|}~-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}\b"), _always),
    (
        "SECRET",
        _pattern(
            r"\b(?:sk|pk|rk)[-_][\w-]{16,}|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bAKIA[0-9A-Z]{16}\b"
            r"|\bxox[abposr]-[\w-]{10,}|\bAIza[\w-]{30,}|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",
            0,
        ),
        _always,
    ),
    (
        "SECRET",
        _pattern(
            r"\b(?:password|passcode|passphrase|pin|pwd|api[ _-]?key|token)(?:\s+is\s+|\s*[:=]\s*)(?P<it>[^\s,;]{3,})"
        ),
        lambda said: bool(re.search(r"[\d\W_]", said.rstrip(".!?"))),
    ),
    ("IBAN", _pattern(r"\b[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,4})?\b"), iban_holds),
    ("CARD", _pattern(r"(?<![\d.,-])\d(?:[ -]?\d){12,18}(?![\d-])"), _is_card),
    ("ID", _pattern(r"(?<![\d-])\d{3}([- ])\d{2}\1\d{4}(?![\d-])"), _is_ssn),
    (
        "ID",
        _pattern(r"\b(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?\d{2}){3} ?[A-D]\b", 0),
        _always,
    ),
    (
        "ID",
        _pattern(
            r"\b(?:passport|driver'?s licen[cs]e|licen[cs]e|social security|ssn|national insurance|tax id|id card)"
            r"(?:\s+(?:no|number|nr)\.?)?(?:\s+is)?\s*[:#]?\s*(?P<it>(?=[A-Z0-9-]*\d)[A-Z0-9][A-Z0-9-]{4,19})\b"
        ),
        _always,
    ),
    ("IP", _pattern(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\d)(?!\w)"), _is_ip),
    (
        "IP",
        _pattern(r"(?<![\w:.])(?=[0-9a-f:]*:[0-9a-f]*:)[0-9a-f:]{2,39}(?:(?<=:)(?:\d{1,3}\.){3}\d{1,3})?(?![\w:])"),
        _is_ip,
    ),
    (
        "BIRTH",
        _pattern(
            r"\b(?:born|date of birth|birth ?date|birthday|d\.?o\.?b\.?)\b"
            rf"(?:\s+(?:is|was|on|in|the))*\s*[:,]?\s*(?P<it>{DATE})"
        ),
        _always,
    ),
    (
        "ADDRESS",
        _pattern(
            rf"(?<![\w.,-])\d{{1,5}}[A-Za-z]?(?:[ -]\d{{1,5}})?\s+(?:(?:North|South|East|West|N|S|E|W)\.?\s+)?"
            rf"(?:{CAPITAL}\s+|\d{{1,3}}(?:st|nd|rd|th)\s+){{1,4}}(?i:{WAY})\b\.?"
            rf"(?:,?\s+(?i:apt|apartment|suite|ste|unit|floor|flat|#)\.?\s*\w{{1,6}})?"
            rf"(?:,\s*{CAPITAL}(?:\s{CAPITAL}){{0,2}},?\s+[A-Z]{{2}}(?:\s+\d{{5}}(?:-\d{{4}})?)?)?",
            0,
        ),
        _always,
    ),
    ("ADDRESS", _pattern(r"\bP\.? ?O\.? ?Box\s+\d{1,6}\b"), _always),
    (
        "ADDRESS",
        _pattern(
            r"\b(?:[A-ZÄÖÜ][\wäöüß]*(?:straße|strasse|str\.|weg|platz|gasse|allee)|(?:[A-ZÄÖÜ][\wäöüß-]*\s)"
            r"(?:Straße|Strasse|Str\.|Weg|Platz|Allee))\s+\d{1,4}(?:\s?[a-z])?\b(?:,?\s+\d{4,5}\s+[A-ZÄÖÜ][\wäöüß-]+)?",
            0,
        ),
        _always,
    ),
    (
        "ADDRESS",
        _pattern(
            r"\b\d{1,4}(?:\s?bis|\s?ter)?,?\s+(?:rue|avenue|boulevard|place|chemin|impasse|allée)\s+(?:(?:de|du|des|la|le|les"
            rf"|d'|l')\s?)*{CAPITAL}(?:\s{CAPITAL}){{0,3}}(?:,?\s+\d{{5}}\s+{CAPITAL})?",
            0,
        ),
        _always,
    ),
    (
        "PERSON",
        _pattern(
            rf"\b(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Sir|Herr|Frau|Mme|Mlle)\b\.?\s+(?P<it>{CAPITAL}(?:\s{CAPITAL})?)", 0
        ),
        _always,
    ),
    (
        "PERSON",
        _pattern(
            rf"\b(?:[Mm]y name is|[Mm]y name's|I am called|[Ii]ch heiße)\s+(?P<it>{CAPITAL}(?:\s{CAPITAL}){{0,2}})", 0
        ),
        _always,
    ),
)


def found(text: str, *, region: str = "US") -> Iterator[Span]:
    """Personal parts of `text`, kind by kind; parts of several kinds may overlap.

    Args:
        text: Any.
        region: Two letters of the country whose national telephone numbers are meant, such as US.
    """
    for kind, pattern, holds in PATTERNS:
        group = "it" if "it" in pattern.groupindex else 0
        for match in pattern.finditer(text):
            start = match.start(group)
            for said in _readings(kind, match[group]):
                if said and holds(said):
                    yield Span(start, start + len(said), kind)
                    break
    leniency = phonenumbers.Leniency.VALID
    for number in phonenumbers.PhoneNumberMatcher(text, region, leniency=leniency, max_tries=MAX_PHONE_TRIES):
        yield Span(number.start, number.end, "PHONE")


def _readings(kind: str, said: str) -> Iterator[str]:
    """What a match may be: all of it without the sentence's marks, or fewer of its groups."""
    yield said if kind == "SECRET" else said.rstrip(".,;:!?'’)")
    while kind in GROUPED and (border := max(said.rfind(" "), said.rfind("-"))) > 0:
        said = said[:border]
        yield said
