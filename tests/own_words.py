"""Public prompts in, what the base itself answers to them out: the text of the gate's leg "own_words".

Run with `python -m tests.own_words > sdk/build/probes/own_words.jsonl` after the base has changed, and raise
BASE_VERSION. Sums of floating-point numbers differ between machines, so the texts are kept with the source and not
sampled anew by every build. They are sampled at temperature 1, from the model's own distribution, cut after a number of
tokens, and sifted by rule alone: nobody picked what pleased him.
"""

import json
import os
import sys
from pathlib import Path
from random import Random

import torch

from personalize.generated import Standards, sift, write
from personalize.written import Written
from sdk.build.package import make_base
from sdk.build.probes.templates import sample
from sdk.device.night import ADAPTED_LAYERS
from sdk.device.runtime import Runtime

SEED = 20261124  # Any fixed number will do.
KEPT = 120
MAX_TOKENS = 28  # The gate's cost is its tokens.
UNCLEAN = ("  ", "[", "|", "{", "<", "\n", '"')  # What the other probes do not have either.

TEMPLATES = (
    "Explain {topic} in one sentence.",
    "What is {topic}?",
    "Why does {topic} matter?",
    "Give one tip for {activity}.",
    "How do I start {activity}?",
    "Write one line about {thing}.",
    "Describe {thing} in one sentence.",
    "Begin a story about {thing}.",
    "Name one use of {thing}.",
    "Say something kind to a friend who is {state}.",
)
# fmt: off
WORDS = {
    "topic": [
        "rain", "gravity", "trade", "sleep", "recycling", "photosynthesis", "voting", "electricity", "friction",
        "music", "the water cycle", "erosion", "inflation", "memory", "teamwork", "evaporation", "migration",
    ],
    "activity": [
        "learning a language", "saving money", "baking bread", "growing tomatoes", "running", "reading more", "drawing",
        "writing a letter", "planning a trip", "keeping a diary", "fixing a bike", "studying for a test",
    ],
    "thing": [
        "a lighthouse", "an old clock", "a small dog", "the moon", "a bridge", "a wooden boat", "a garden",
        "a snowy street", "a river", "a kite", "a market", "a lost key", "a map", "a candle",
    ],
    "state": ["tired", "sad", "nervous", "busy", "moving away", "starting a new job", "ill", "proud of a good grade"],
}
# fmt: on


def main() -> None:
    """Write one object a line: prompt and answer."""
    torch.set_num_threads(1)
    cache = Path(os.environ.get("LIMBECK_TEST_CACHE", Path(__file__).parents[1] / ".cache"))
    runtime = Runtime.open(make_base(cache))
    prompts = sample(TEMPLATES, WORDS, 110, Random(SEED)) * 2  # Two draws for each: many are sifted out.
    answers = dict(write(runtime.model, runtime.tokenizer, prompts, seed=SEED, max_tokens=MAX_TOKENS, whole=False))
    texts = [Written(prompt=prompt, answer=answers[index]) for index, prompt in enumerate(prompts)]
    cut = len(runtime.model.model.layers) - ADAPTED_LAYERS
    kept, faults = sift(runtime.model, runtime.tokenizer, texts, cut=cut, standards=Standards(least_tokens=8))
    clean = [text for text in kept if text.answer.isascii() and not any(sign in text.answer for sign in UNCLEAN)]
    print(f"{len(texts)} written, {faults} refused, {len(clean)} clean", file=sys.stderr)
    for text in clean[:KEPT]:
        print(json.dumps({"prompt": text.prompt, "answer": text.answer}))


if __name__ == "__main__":
    main()
