"""Word lists in, minimal pairs of English grammar out: one sentence right, its twin wrong in one place.

The kinds of pair follow the idea of BLiMP (arXiv:1912.00582); every template and word here is our own.
"""

from random import Random

from sdk.build.probes.lexicon import PROBE_WORDS, REHEARSAL_WORDS
from sdk.build.probes.templates import Pair, Text, paired

__all__ = ["PHENOMENA", "probes", "rehearsal"]

# A template writes both sentences at once: [right|wrong]. A word with several forms is asked for by the number of the
# form: {acts:0} and {acts:1} are "works" and "work".
PHENOMENA: dict[str, list[str]] = {
    "subject_verb": [
        "The {person} [{acts:0}|{acts:1}] {place}.",
        "The {people} [{acts:1}|{acts:0}] {place}.",
    ],
    "subject_verb_attractor": [
        "The {object} in the {holder} [is|are] {adjective}.",
        "The {object} near the {group} [was|were] {adjective}.",
        "The {people} beside the {object} [{acts:1}|{acts:0}] every day.",
    ],
    "subject_verb_relative": [
        "The {person} that the {group} {sees:1} [{acts:0}|{acts:1}] {place}.",
        "The {people} that {woman} {sees:0} [{acts:1}|{acts:0}] {place}.",
        "The {person} who {sees:0} {man} [{acts:0}|{acts:1}] {place}.",
    ],
    "determiner_noun": [
        "{woman} {transitive} [these|this] {objects}.",
        "{man} {transitive} [that|those] {object}.",
    ],
    "determiner_noun_adjective": [
        "{man} {transitive} [this|these] {adjective} {object}.",
        "{woman} {transitive} [those|that] {adjective} {objects}.",
    ],
    "anaphor_number": [
        "The {people} {hurts} [themselves|himself].",
        "The {group} {place} {hurts} [themselves|herself].",
    ],
    "anaphor_gender": [
        "{woman} said that she {hurts} [herself|himself].",
        "{man} said that he {hurts} [himself|herself].",
    ],
    "anaphor_binding": [
        "{woman} thinks that the {people} {hurts} [themselves|herself].",
        "The mother of {man} {hurts} [herself|himself].",
    ],
    "negative_polarity": [
        "[No|Some] {people} have ever {deed}.",
        "[Nobody|Somebody] {place} has ever {deed}.",
        "The {people} have [never|often] {deed} at all.",
    ],
    "wh_gap": [
        "{man} {learns} [that|what] the {people} {breaks} the {object}.",
        "{woman} {learns} [that|who] the {group} {breaks} the {objects}.",
    ],
    "irregular_past": [
        "The {person} [{irregular:0}|{irregular:1}] {irregular:2}.",
        "{man} [{irregular:0}|{irregular:1}] {irregular:2} yesterday.",
    ],
    "irregular_participle": [
        "The {person} has [{irregular:1}|{irregular:0}] {irregular:2}.",
        "{woman} had [{irregular:1}|{irregular:0}] {irregular:2} before noon.",
    ],
    "argument_structure": [
        "The {person} [{transitive}|{intransitive}] the {object}.",
        "{woman} [{transitive}|{intransitive}] those {objects}.",
    ],
    "passive": [
        "The {object} was [{transitive}|{intransitive}] by {man}.",
        "Those {objects} were [{transitive}|{intransitive}] by the {person}.",
    ],
    "verb_after_auxiliary": [
        "The {person} did not [{move:0}|{move:2}] with {woman}.",
        "{man} can [{move:0}|{move:1}] very well.",
        "Will the {people} [{move:0}|{move:2}] soon?",
    ],
    "existential_there": [
        "There [are|is] {count} {objects} {place}.",
        "There [was|were] a {adjective} {object} {place}.",
    ],
    "there_quantifier": [
        "There are [many|all] {countable} {place}.",
        "There was [a|every] {person} {place}.",
    ],
    "much_many": [
        "How [many|much] {countable} does {woman} have?",
        "{man} does not have [much|many] {mass}.",
    ],
    "pronoun_case": [
        "[She|Her] {transitive} the {object} {place}.",
        "The {person} {transitive} it for [him|he] and {woman}.",
        "{man} and [I|me] {transitive} the {adjective} {object}.",
    ],
    "question_order": [
        "Where [did the {people}|the {people} did] find the {object}?",
        "Why [is the {object}|the {object} is] so {adjective}?",
    ],
}

PROBE_PAIRS_EACH = 24  # 20 phenomena make 480 pairs: the leg resolves a drop of about 3 points at 5 % discordance.
REHEARSAL_TEXTS_EACH = 8


def probes(rng: Random) -> list[Pair]:
    """Make the pairs of the gate, all phenomena alike."""
    return paired(PHENOMENA, PROBE_WORDS, PROBE_PAIRS_EACH, rng)


def rehearsal(rng: Random) -> list[Text]:
    """Make corrections to learn from, with words that no probe has."""
    pairs = paired(PHENOMENA, REHEARSAL_WORDS, REHEARSAL_TEXTS_EACH, rng)
    return [Text(f"Correct the grammar: {pair.bad}", pair.good) for pair in pairs]
