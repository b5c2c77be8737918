"""Templates and made-up values in, texts with labelled personal parts out: what the redactor is measured on.

No value is a real person's: cards and IBANs are the networks' and the registry's examples or made to hold their check
digits, telephone numbers are of ranges kept for fiction, addresses and names are put together from lists.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from sdk.device.handoff.found import luhn_holds

__all__ = ["CONTACTS", "TRAPS", "Labelled", "labelled"]

CONTACTS = (
    "Ana Petrović", "Will Grace", "Bo Li", "Søren Kierkegaard", "Chidi Anagonye", "Mary-Jane O'Neill", "李明",
    "May Rose", "Jean-Luc Dupont", "Priya Raman",
)  # fmt: skip
STRANGERS = ("Tomas Berg", "Leila Haddad", "Kenji Mori", "Oksana Bondar")

TEMPLATES = {
    "PERSON": (
        "Tell {} that I am late.",
        "dinner with {} at 7",
        "Write to {}: thanks for the books",
        "{}'s flight is on time",
    ),
    "EMAIL": ("Send the plan to {} please.", "my address is {}, write soon", "<{}> bounced"),
    "PHONE": ("Call me at {}.", "My new number: {}", "text {} when you are there"),
    "CARD": ("Charge {} for the tickets", "card number {}, thanks", "I paid with {}."),
    "IBAN": ("Transfer 40 euros to {} today", "IBAN: {}"),
    "IP": ("The printer is at {}.", "ping {} and tell me"),
    "URL": ("Clone {} first", "the link {} works"),
    "BIRTH": ("I was born on {}.", "Date of birth: {}, in Graz", "her birthday is {}"),
    "ADDRESS": ("Deliver to {}, please.", "We moved to {} last week", "meet me at {}"),
    "ID": ("My SSN is {}.", "passport number {} expires soon"),
    "SECRET": ("The password is {}", "use api_key={} in the header"),
    "STRANGER": ("Ask {} about the garden.", "{} called twice"),
    "TITLED": ("Dr. {} has moved the appointment", "My name is {}."),
}
"""STRANGER: a name that is not listed and that nothing announces; nobody can find it by a list, and we do not."""

TRAPS = (
    "Wake me at 6:30 on 12/05/2026.",
    "It costs 1,299.00 dollars.",
    "Flight TF611 leaves from gate 12 at 14:05.",
    "Set the timer for 45 minutes.",
    "I will be in room 1204 in May.",
    "Order 3 large coffees for table 17.",
    "The score was 117 to 104 after 4 quarters.",
    "Version 2.14.0 fixes issue 88123.",
    "Mark the first three as done.",
    "Turn the lights to 40 percent.",
    "Meet on Main Street at noon.",
    "A rose by any other name.",
    "Take highway 101 north.",
    "The invoice number is 2026-11-00042.",
    "ISBN 978-3-16-148410-0 is out of print.",
    "It rained 12 mm on 3 June 2024.",
    "Add 2 cups of rice and 1 tablespoon of salt.",
    "The year 1984 by Orwell.",
    "Run 10 km in 50:12.",
    "Page 12, line 7: grace period.",
    "See RFC 9458 section 4.2.",
    "At 5 we drive to the lake.",
    "Password reset does not work.",
    "The pin is bent.",
)
"""Texts with nothing personal in them that look as if they had."""


@dataclass(frozen=True)
class Labelled:
    """A text and its personal part."""

    text: str
    value: str
    kind: str
    """A key of TEMPLATES."""


def labelled(each: int = 20, seed: int = 5) -> Iterator[Labelled]:
    """So many texts of each kind, the same for the same seed."""
    rng = Random(seed)
    for kind, templates in TEMPLATES.items():
        for number in range(each):
            value = _value(kind, rng)
            yield Labelled(text=templates[number % len(templates)].format(value), value=value, kind=kind)


def _value(kind: str, rng: Random) -> str:
    digits = "".join(str(rng.randrange(10)) for _ in range(20))
    word = "".join(rng.choice("abcdefghikmnoprstuvwz") for _ in range(7))
    match kind:
        case "PERSON":
            name = rng.choice(CONTACTS)
            return rng.choice([name, name.split()[0] if len(name.split()[0]) > 2 else name, name.upper()])
        case "STRANGER" | "TITLED":
            return rng.choice(STRANGERS)
        case "EMAIL":
            return rng.choice(
                [f"{word}@example.org", f"{word}.{digits[:2]}@mail.example.co.uk", f"{word}+x@exämple.de"]
            )
        case "PHONE":
            number = f"01{digits[:2]}"  # 555-0100 to 555-0199 and 01632 960: kept for fiction.
            return rng.choice(
                [
                    f"(212) 555-{number}",
                    f"+1 415 555 {number}",
                    f"415-555-{number}",
                    f"+44 20 7946 0{digits[:3]}",
                    "+49 30 23125 042",
                ]
            )
        case "CARD":
            start = rng.choice(["4", "51", "2221", "6011"]) + digits
            number = next(start[:15] + str(last) for last in range(10) if luhn_holds(start[:15] + str(last)))
            return rng.choice(
                [
                    number,
                    " ".join(number[at : at + 4] for at in range(0, 16, 4)),
                    "-".join(number[at : at + 4] for at in range(0, 16, 4)),
                ]
            )
        case "IBAN":
            code = "DE00" + digits[:18]
            check = 98 - int(f"{code[4:]}{13}{14}00") % 97
            code = f"DE{check:02d}{code[4:]}"
            return rng.choice([code, " ".join(code[at : at + 4] for at in range(0, 22, 4))])
        case "IP":
            return rng.choice(
                [f"10.{int(digits[:2])}.{int(digits[2:4])}.7", f"2001:db8::{digits[:4]}:{digits[4]}", "fe80::1ff:fe23"]
            )
        case "URL":
            return rng.choice(
                [f"https://{word}:{digits[:6]}@git.example.org/x.git", f"https://x.example/y?token={word}{digits[:6]}"]
            )
        case "BIRTH":
            year = 1940 + int(digits[:2]) % 70
            return rng.choice(
                [f"{year}-03-1{digits[3]}", f"12 May {year}", f"March 3, {year}", f"03/1{digits[4]}/{year}"]
            )
        case "ADDRESS":
            name, house = word.capitalize(), int(digits[:2]) + 1
            return rng.choice(
                [
                    f"{house} {name} Street",
                    f"{house} North {name} Ave., Apt 4",
                    f"{name}straße {house}",
                    f"{house} {name} Road, Springfield, IL 62704",
                    f"{house} rue de {name}",
                    f"Flat {digits[0]}, {name} House",
                    f"P.O. Box {digits[:4]}",
                ]
            )
        case "ID":
            return rng.choice(
                [
                    f"{1 + int(digits[0]) % 6}{digits[1]}5-{1 + int(digits[2])}{digits[3]}-{digits[4:7]}1",
                    f"X{digits[:8]}",
                ]
            )
    return rng.choice([f"{word}{digits[:3]}!", f"sk-{word}{digits}", f"{digits[:4]}-{word}"])
