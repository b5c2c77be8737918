"""Templates and word lists in, the public probes of the gate and the public rehearsal text out.

Rules: every text is the project's own; the same bytes come out every time; no rehearsal text shares an answer or a run
of eight words with a probe, so that learning the one cannot be learning the other by heart.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

from privacy.whole_file import replace_whole
from sdk.build.probes import bias, english, facts, grammar, instructions, own_words, structured, tasks

__all__ = ["PROBES_FILE", "REHEARSAL_FILE", "probes", "rehearsal", "write_probes"]

PROBES_FILE = "probes.jsonl"
REHEARSAL_FILE = "rehearsal.jsonl"
SEED = 20240917  # Any fixed number will do; changing it changes every shipped probe.
SHARED_WORDS = 8  # A run of this many words in both files counts as the same text.
WORD = re.compile(r"\w+")

TEXT_LEGS = {"english": english, "facts": facts, "tasks": tasks, "instructions": instructions}


def write_probes(folder: Path) -> None:
    """Write probes.jsonl and rehearsal.jsonl into `folder`, each whole or not at all."""
    _write(folder / PROBES_FILE, probes())
    _write(folder / REHEARSAL_FILE, rehearsal())


def probes(*, seed: int = SEED) -> list[dict[str, str]]:
    """Make the probe items: pairs for grammar, pairs that part at one token for structured output and bias, prompt and
    answer for every other leg.

    Within a leg the kinds take turns, so that the first n items of a leg are a fair sample of it for a quicker gate.

    Args:
        seed: Another one draws other items from the same templates, to check what the shipped ones found.
    """
    items: list[dict[str, str]] = []
    for place, pair in enumerate(grammar.probes(Random(f"{seed} probes grammar"))):
        name = f"grammar-{pair.phenomenon}-{place:03d}"
        items.append(_item("probe/1", name, leg="grammar", kind="pair", prompt="", good=pair.good, bad=pair.bad))
    for place, (prompt, pair) in enumerate(structured.probes(Random(f"{seed} probes structured"))):
        name = f"structured-{pair.phenomenon}-{place:03d}"
        sides = {"good": pair.good, "bad": pair.bad}
        items.append(_item("probe/1", name, leg="structured", kind="choice", prompt=prompt, **sides))
    for place, pair in enumerate(bias.probes(Random(f"{seed} probes bias"))):
        name = f"bias-{pair.phenomenon}-{place:03d}"
        items.append(_item("probe/1", name, leg="bias", kind="choice", prompt="", good=pair.good, bad=pair.bad))
    for place, text in enumerate(own_words.probes(Random(f"{seed} probes own_words"))):
        name = f"own_words-{place:03d}"
        items.append(_item("probe/1", name, leg="own_words", kind="open", prompt=text.prompt, answer=text.answer))
    for leg, room in TEXT_LEGS.items():
        for place, text in enumerate(room.probes(Random(f"{seed} probes {leg}"))):
            name = f"{leg}-{place:03d}"
            items.append(_item("probe/1", name, leg=leg, kind="loss", prompt=text.prompt, answer=text.answer))
    return items


def rehearsal() -> list[dict[str, str]]:
    """Make the rehearsal texts, shuffled over all sorts; a text too close to a probe is left out."""
    answers: set[str] = set()
    runs: set[tuple[str, ...]] = set()
    for item in probes():
        answers.update(item[side] for side in ("answer", "good", "bad") if side in item)
        runs.update(_runs(item))
    items = []
    for sort, room in {"grammar": grammar, **TEXT_LEGS}.items():
        for place, text in enumerate(room.rehearsal(Random(f"{SEED} rehearsal {sort}"))):
            item = _item("rehearsal/1", f"rehearsal-{sort}-{place:03d}", prompt=text.prompt, answer=text.answer)
            if item["answer"] not in answers and runs.isdisjoint(_runs(item)):
                items.append(item)
    Random(f"{SEED} order").shuffle(items)
    return items


def _item(form: str, name: str, **fields: str) -> dict[str, str]:
    return {"format": form, "id": name, **fields}


def _runs(item: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """Yield each run of SHARED_WORDS words in the item's texts, prompt and answer read as one."""
    for side in ("answer", "good", "bad"):
        if side in item:
            words = WORD.findall(f"{item['prompt']} {item[side]}".lower())
            yield from (tuple(words[at : at + SHARED_WORDS]) for at in range(len(words) - SHARED_WORDS + 1))


def _write(path: Path, items: Sequence[Mapping[str, str]]) -> None:
    lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    replace_whole(path, lines.encode())
