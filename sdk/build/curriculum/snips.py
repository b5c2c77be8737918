"""The public SNIPS requests in, intents with their slots out.

Only the training files are ever opened. The validation files are the score's alone; what is held out here are wordings
of the training files, for a look during training.

Source: Coucke et al., "Snips Voice Platform", arXiv:1805.10190; data under CC0 1.0.
"""

import json
from hashlib import sha256
from pathlib import Path

from sdk.build.curriculum.examples import Example, template_id
from sdk.build.curriculum.split import Side
from sdk.errors import CurriculumError
from sdk.tasks import Intent, as_answer, prompt

__all__ = ["snips"]

WORDINGS_PER_HELD_OUT = 14  # One wording in so many: the validation files, not these, decide a score.
FILES = "train_*_full.json"
Parts = list[tuple[str, str | None]]
"""Pieces of a request in order: text, and the slot that it fills if any."""


def snips(folder: Path, side: Side) -> list[Example]:
    """Every different training request of one side, in the order of the files.

    Args:
        folder: Holds train_INTENT_full.json as published.
        side: A wording, the request without its slot values, is on one side only.

    Raises:
        CurriculumError: The folder holds no such files, or one is damaged.
    """
    files = sorted(folder.glob(FILES))
    if not files:
        raise CurriculumError(f"no SNIPS training files in {folder}; {FILES} was expected")
    made: dict[str, Example] = {}
    for file in files:
        for intent, parts in _read(file):
            wording = _collapsed("".join(f"{{{slot}}}" if slot else text for text, slot in parts)).lower()
            if _side(wording) is side:
                example = _example(intent, parts, wording)
                made.setdefault(example.prompt, example)
    return list(made.values())


def _read(file: Path) -> list[tuple[str, Parts]]:
    raw = file.read_bytes()
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")  # One file was published so.
    try:
        return [
            (intent, [(part["text"], part.get("entity")) for part in row["data"]])
            for intent, rows in json.loads(text).items()
            for row in rows
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as wrong:
        raise CurriculumError(f"{file} is no SNIPS file: {wrong}; get it again from sonos/nlu-benchmark") from wrong


def _example(intent: str, parts: Parts, wording: str) -> Example:
    slots: dict[str, list[str]] = {}
    for text, slot in parts:
        if slot and _collapsed(text):
            slots.setdefault(slot, []).append(_collapsed(text))
    single = {slot: values if values[1:] else values[0] for slot, values in slots.items()}
    return Example(
        task="intent",
        prompt=prompt("intent", _collapsed("".join(text for text, _ in parts))),
        answer=as_answer(Intent(intent=intent, slots=single)),
        template=template_id(intent, wording),
        schema="intent",
    )


def _collapsed(text: str) -> str:
    return " ".join(text.split())


def _side(wording: str) -> Side:
    number = int.from_bytes(sha256(wording.encode()).digest()[:8])
    return Side.HELD_OUT if number % WORDINGS_PER_HELD_OUT == 0 else Side.TRAIN
