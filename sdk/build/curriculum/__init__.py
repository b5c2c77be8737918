"""Device tasks, weights and a seed in, worked examples to train and to test on out."""

from sdk.build.curriculum.assembly import DEFAULT_WEIGHTS, Curriculum, curriculum
from sdk.build.curriculum.examples import FORMAT, Example
from sdk.build.curriculum.files import read_examples, write_examples
from sdk.build.curriculum.near import NEAR, Near
from sdk.build.curriculum.run import build_curriculum, parsed_weights
from sdk.build.curriculum.split import Side
from sdk.build.curriculum.written import REASONS, Filtered, filtered, read_candidates
from sdk.scoring import HEADLINE, averaged, rouge_l, score

__all__ = [
    "DEFAULT_WEIGHTS",
    "FORMAT",
    "HEADLINE",
    "NEAR",
    "REASONS",
    "Curriculum",
    "Example",
    "Filtered",
    "Near",
    "Side",
    "averaged",
    "build_curriculum",
    "curriculum",
    "filtered",
    "parsed_weights",
    "read_candidates",
    "read_examples",
    "rouge_l",
    "score",
    "write_examples",
]
