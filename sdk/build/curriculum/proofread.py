"""Correct sentences in, spoiled ones with their corrections out."""

from random import Random

from sdk.build.curriculum.examples import Example, template_id
from sdk.build.curriculum.mistakes import spoiled
from sdk.build.curriculum.sentences import sentence
from sdk.build.curriculum.split import Side
from sdk.tasks import prompt

__all__ = ["proofread"]

COUNTS = (0, 1, 1, 1, 2, 2, 2, 3)  # Mistakes: one text in eight is right already and must stay as it is.


def proofread(side: Side, rng: Random) -> Example:
    """One or two sentences with up to three mistakes, and the same without."""
    first, template = sentence(side, rng)
    texts = [first] if rng.random() < 0.65 else [first, sentence(side, rng)[0]]
    right = " ".join(texts)
    return Example(
        task="proofread",
        prompt=prompt("proofread", spoiled(right, rng.choice(COUNTS), rng)),
        answer=right,
        template=template_id("proofread", template),
    )
