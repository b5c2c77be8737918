"""Word lists in, instructions about form out, each with the one answer that follows it to the letter."""

from collections.abc import Callable
from random import Random

from sdk.build.probes.templates import Text

__all__ = ["probes", "rehearsal"]

# fmt: off
PROBE_NOUNS = [
    "apple", "bridge", "candle", "desk", "engine", "feather", "guitar", "hammer", "island", "jacket", "kettle",
    "lemon", "mirror", "needle", "ocean", "pencil", "rabbit", "saddle", "tunnel", "violin", "window", "zebra",
]
REHEARSAL_NOUNS = [
    "anchor", "basket", "cabin", "dragon", "eagle", "forest", "garden", "harbor", "insect", "jungle", "kitten",
    "ladder", "meadow", "nephew", "orange", "pillow", "river", "silver", "tiger", "uncle", "valley", "winter",
]
PROBE_PHRASES = [
    "the train leaves at noon", "we meet again next week", "this cup is still warm", "nobody answered the phone",
    "my coat hangs by the door", "they painted the fence white", "she keeps old stamps", "our bus was late again",
    "he speaks very slowly", "it snowed all night",
]
REHEARSAL_PHRASES = [
    "the shop opens at ten", "you forgot your hat", "a cat sat on the roof", "everyone liked the play",
    "her lamp is too bright", "we sold the old boat", "his answer came quickly", "the river froze in march",
    "children like long stories", "that road goes north",
]
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
]
# fmt: on
PROBE_NUMBERS = {"7": "seven", "12": "twelve", "18": "eighteen", "30": "thirty", "45": "forty-five", "61": "sixty-one"}
REHEARSAL_NUMBERS = {
    "9": "nine",
    "13": "thirteen",
    "16": "sixteen",
    "50": "fifty",
    "72": "seventy-two",
    "88": "eighty-eight",
}


def probes(rng: Random) -> list[Text]:
    """Make the instructions of the gate: thirteen kinds, most of them nine times."""
    return _instructions(PROBE_NOUNS, PROBE_PHRASES, PROBE_NUMBERS, range(1990, 2005), PROBE_FORMS, rng)


def rehearsal(rng: Random) -> list[Text]:
    """Make instructions of the same kinds, worded differently, over other words."""
    return _instructions(REHEARSAL_NOUNS, REHEARSAL_PHRASES, REHEARSAL_NUMBERS, range(2006, 2021), REHEARSAL_FORMS, rng)


# kind → how the instruction is worded; {} is the material.
PROBE_FORMS = {
    "upper": "Write in capital letters: {}",
    "list": "Write as a comma-separated list: {0} and {1} and {2}",
    "numbered": "Make a numbered list: {0}, {1}, {2}",
    "bullets": "Make a list with dashes: {0}, {1}",
    "sorted": "Sort by alphabet: {2}, {0}, {1}",
    "reversed": "Reverse the order: {0}, {1}, {2}",
    "repeated": "Repeat three times: {0}",
    "first": "Answer with the first word only: {}",
    "quoted": "Put in double quotes: {}",
    "sentence": "Start with a capital letter and end with a period: {}",
    "date": "Write the date as YYYY-MM-DD: {}",
    "spelled": "Write the number in words: {}",
    "letters": "Spell with hyphens between the letters: {0}",
}
REHEARSAL_FORMS = {
    "upper": "Put this in upper case: {}",
    "list": "Separate with commas: {0} {1} {2}",
    "numbered": "Number these three things: {0}, {1}, {2}",
    "bullets": "One line each, with a dash before it: {0}, {1}",
    "sorted": "Put these in alphabetical order: {2}, {0}, {1}",
    "reversed": "Say these from last to first: {0}, {1}, {2}",
    "repeated": "Say this word three times: {0}",
    "first": "Copy only the first word of this: {}",
    "quoted": "Add quotation marks around this: {}",
    "sentence": "Make this a proper sentence: {}",
    "date": "Give this date in ISO form: {}",
    "spelled": "Use words for this number: {}",
    "letters": "Hyphenate each letter of this word: {0}",
}
# kind of material → kind of form → the answer.
OF_WORDS: dict[str, Callable[[list[str]], str]] = {
    "list": lambda words: ", ".join(words),
    "numbered": lambda words: "\n".join(f"{place}. {word}" for place, word in enumerate(words, start=1)),
    "bullets": lambda words: "\n".join(f"- {word}" for word in words[:2]),
    "sorted": lambda words: ", ".join(sorted(words)),
    "reversed": lambda words: ", ".join(reversed(words)),
    "repeated": lambda words: " ".join(words[:1] * 3),
    "letters": lambda words: "-".join(words[0]),
}
OF_PHRASES: dict[str, Callable[[str], str]] = {
    "upper": lambda phrase: phrase.upper(),
    "first": lambda phrase: phrase.split()[0],
    "quoted": lambda phrase: f'"{phrase}"',
    "sentence": lambda phrase: f"{phrase[0].upper()}{phrase[1:]}.",
}
EACH = 9


def _instructions(
    nouns: list[str], phrases: list[str], numbers: dict[str, str], years: range, forms: dict[str, str], rng: Random
) -> list[Text]:
    made: dict[Text, None] = {}
    for kind, answer in OF_WORDS.items():
        for first in rng.sample(nouns, EACH):
            words = [first, *rng.sample([noun for noun in nouns if noun != first], 2)]
            made[Text(forms[kind].format(*words), answer(words))] = None
    for kind, reply in OF_PHRASES.items():
        for phrase in rng.sample(phrases, EACH):
            made[Text(forms[kind].format(phrase), reply(phrase))] = None
    for year in rng.sample(years, EACH):
        month, day = rng.randrange(12), rng.randrange(1, 29)
        made[Text(forms["date"].format(f"{day} {MONTHS[month]} {year}"), f"{year}-{month + 1:02d}-{day:02d}")] = None
    for number, spelled in numbers.items():
        made[Text(forms["spelled"].format(number), spelled)] = None
    texts = list(made)
    rng.shuffle(texts)
    return texts
