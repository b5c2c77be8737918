"""Device tasks in, pairs of answers out: one that a program can read, its twin broken in one place.

Both begin alike; the probe asks which token the model puts where they part. So an adapter that makes answers chattier,
or drops a quote in a hundred, is seen without one answer being generated.
"""

import json
import re
from collections.abc import Callable
from random import Random

from sdk.build.probes.tasks import PROBE_TASK_WORDS, PROBE_TEMPLATES
from sdk.build.probes.templates import Pair, sample_texts

__all__ = ["BREAKS", "probes"]

# Name → how valid JSON is broken; an answer without such a place comes back whole and is not used.
BREAKS: dict[str, Callable[[str], str]] = {
    "chatty": lambda answer: f"Sure! Here it is: {answer}",
    "single_quotes": lambda answer: answer.replace('"', "'"),
    "unquoted_key": lambda answer: re.sub(r', "(\w+)": ', r", \1: ", answer, count=1),
    "equals": lambda answer: answer.replace('": ', '" = ', 1),
    "missing_comma": lambda answer: answer.replace(", ", " ", 1),
    "unquoted_value": lambda answer: answer.replace('": "', '": ', 1),
    "open_string": lambda answer: answer.removesuffix('"}') + "}" if answer.endswith('"}') else answer,
    "open_object": lambda answer: answer.removesuffix("}"),
}
EACH = 15
PROMPT_AND_ANSWER_CHARACTERS = 120  # The gate's cost is its tokens, and short answers break like long ones.


def probes(rng: Random) -> list[tuple[str, Pair]]:
    """Make prompts with their pairs, the ways to break an answer taking turns."""
    structured = [text for text in PROBE_TEMPLATES if text.answer.startswith('{"')]
    texts = sample_texts(structured, PROBE_TASK_WORDS, 20 * EACH, rng)
    short = [text for text in texts if len(text.prompt) + len(text.answer) <= PROMPT_AND_ANSWER_CHARACTERS]
    made: dict[str, list[tuple[str, Pair]]] = {}
    for name, broken in BREAKS.items():
        fitting = [text for text in short if not _valid(broken(text.answer))]
        chosen = rng.sample(fitting, EACH)
        made[name] = [(text.prompt, Pair(name, text.answer, broken(text.answer))) for text in chosen]
    return [made[name][turn] for turn in range(EACH) for name in BREAKS]


def _valid(answer: str) -> bool:
    try:
        return isinstance(json.loads(answer), dict)
    except ValueError:
        return False
