"""Word lists in, days, times of day and durations out, as people write them."""

from random import Random

from sdk.build.curriculum.grammar import Words
from sdk.build.curriculum.wording import words

__all__ = ["MOMENTS"]

LISTS = words()
WEEKDAYS, MONTHS = LISTS["weekday"], LISTS["month"]
SPELLED = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
MINUTES = (0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55)


def ordinal(day: int) -> str:
    """1st, 2nd, 3rd, 4th."""
    return f"{day}{'th' if 10 < day < 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


def date(rng: Random) -> str:
    """A day of the year."""
    month, day, weekday = rng.choice(MONTHS), rng.randint(1, 28), rng.choice(WEEKDAYS)
    forms = (
        f"{month} {day}", f"{month} {day}", f"{day} {month}", f"{month} {ordinal(day)}", f"the {ordinal(day)}",
        f"the {ordinal(day)} of {month}", f"{month[:3]} {day}", f"{rng.randint(1, 12)}/{day}",
        f"{weekday}, {month} {day}", f"{weekday} the {ordinal(day)}",
    )  # fmt: skip
    return rng.choice(forms)


def day(rng: Random) -> str:
    """A day to come, with "on" before it where English wants it."""
    weekday, many, which = rng.choice(WEEKDAYS), rng.choice(SPELLED), rng.choice(("first", "last", "second"))
    forms = (
        f"on |{weekday}", f"on |{weekday}", f"on |{weekday}", f"on |{weekday}", f"on |{weekday[:3]}", "tomorrow",
        "tomorrow", "today", f"next {weekday}", f"next {weekday}", f"this {weekday}", f"this coming {weekday}",
        f"on |{date(rng)}",
        f"on |{date(rng)}", f"on |{date(rng)}", f"on |{date(rng)}", "the day after tomorrow", f"in {many} days",
        f"in {many} weeks", f"in {rng.randint(2, 30)} days", "next week", "next weekend", "this weekend",
        f"a week from {weekday}", f"a week from {rng.choice(('today', 'tomorrow'))}", f"{weekday} next week",
        f"on |the {which} {weekday} of {rng.choice(MONTHS)}",
    )  # fmt: skip
    return rng.choice(forms)


def part(rng: Random) -> str:
    """A day and a part of it."""
    piece = rng.choice(("morning", "afternoon", "evening", "night"))
    which = rng.choice((f"on |{rng.choice(WEEKDAYS)}", f"next {rng.choice(WEEKDAYS)}", "tomorrow", "this", "this"))
    return "tonight" if (which, piece) == ("this", "night") else f"{which} {piece}"


def time(rng: Random) -> str:
    """A time of the day, without "at"."""
    hour, minute, word = rng.randint(1, 12), rng.choice(MINUTES), rng.choice(SPELLED)
    exact, half = rng.choice((minute, rng.randint(1, 59))), rng.choice(("morning", "evening", "afternoon"))
    forms = (
        f"{hour}pm", f"{hour}pm", f"{hour}pm", f"{hour}am", f"{hour} pm", f"{hour} p.m.", f"{hour} am", f"{hour} a.m.",
        f"{hour}:{exact:02d}", f"{hour}:{exact:02d}pm", f"{hour}:{exact:02d} pm", f"{hour}:{exact:02d} a.m.",
        f"{hour}:30",
        f"{rng.randint(0, 23):02d}:{exact:02d}", f"{rng.randint(13, 23)}:{minute:02d}", "noon", "midnight",
        f"{hour} o'clock", f"{word} o'clock", f"half past {word}", f"quarter to {word}", f"quarter past {word}",
        f"a quarter to {word}", f"ten past {word}", f"twenty to {word}", f"{word} thirty", f"{word} in the {half}",
        f"{hour} in the {half}", word, str(hour), f"{rng.randint(10, 20)}h{rng.choice(('', '30', '15'))}",
    )  # fmt: skip
    return rng.choice(forms)


def duration(rng: Random) -> str:
    """How long."""
    word, few = rng.choice(SPELLED), rng.randint(2, 4)
    more, seconds = rng.choice(MINUTES[1:]), rng.choice((15, 20, 30, 45))
    forms = (
        f"{rng.randint(2, 90)} minutes", f"{rng.choice(MINUTES[1:])} minutes", f"{rng.randint(2, 59)} min",
        f"{rng.choice((5, 10, 15, 20, 30, 45, 60, 90))} seconds", f"{word} minutes", f"{word} hours", "an hour",
        f"{rng.randint(2, 12)} hours", "half an hour", "an hour and a half", f"{word} and a half minutes",
        "a quarter of an hour", f"{few} hours and {more} minutes", f"{few}h", f"{rng.randint(2, 59)}m",
        f"1 hour {more} minutes", f"{rng.randint(2, 9)} minutes {seconds} seconds", "a minute", "forty-five minutes",
        "twenty-five minutes", "ninety seconds", "two and a half hours",
    )  # fmt: skip
    return rng.choice(forms)


def repeat(rng: Random) -> str:
    """Again and again."""
    weekday, other = rng.sample(WEEKDAYS, 2)
    forms = (
        f"every {weekday}", f"every {weekday} and {other}", f"every other {weekday}", f"on |{weekday}s", "every day",
        "every morning", "every weekday", "every other day", "on |weekdays", "on |weekends",
        f"on |the {ordinal(rng.randint(1, 28))} of every month",
    )  # fmt: skip
    return rng.choice(forms)


MOMENTS: Words = {"day": day, "part": part, "date": date, "time": time, "duration": duration, "repeat": repeat}
"""Kinds of words for when and how long."""
