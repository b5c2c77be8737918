"""A file of texts that the base once wrote in, the leg that asks whether it would still write them out.

How much likelier the base finds text of its own than a candidate does is, on average, the distance between the two
(Kullback-Leibler, per token): of all legs the one that reacts to any change. The base learned from text like this, and
its own training text is not ours to ship. `python -m tests.own_words` says how the file was made.
"""

import json
from pathlib import Path
from random import Random

from sdk.build.probes.templates import Text

__all__ = ["probes"]

FILE = Path(__file__).with_name("own_words.jsonl")


def probes(rng: Random) -> list[Text]:
    """Read the texts, shuffled over all sorts of prompt."""
    texts = [Text(**json.loads(line)) for line in FILE.read_text(encoding="utf-8").splitlines()]
    rng.shuffle(texts)
    return texts
