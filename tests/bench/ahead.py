"""Device tasks in, what looking ahead saves out: CPU of a written token with and without guesses, on the same student.

Texts are paragraphs of this repository's own documents, one typing mistake each for the proofreader; `open` are public
prompts of the bundle. Both engines write the same prompt in turn. Guesses choose no token, but onnxruntime's 8-bit
products round a step of several tokens differently from one of one token, so not all answers are the same.
"""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sdk.bundle import Bundle, shipped_bundle
from sdk.device.answers.decoding import Decoding, decode
from sdk.device.chat import Chat
from sdk.device.engines.portable.engine import PortableEngine
from sdk.tasks import prompt
from tests.figures import show, table

DOCUMENT = Path(__file__).parents[2] / "docs" / "privacy_model.md"


def asked(bundle: Bundle, texts: int) -> Mapping[str, Sequence[str]]:
    """Prompts by kind."""
    paragraphs = [
        part for part in DOCUMENT.read_text(encoding="utf-8").split("\n\n")
        if 120 < len(part) < 500 and re.match(r"[A-Z]", part)
    ][:texts]  # fmt: skip
    tasks = {name: [prompt(name, part) for part in paragraphs] for name in ("politer", "summary")}
    mistaken = [prompt("proofread", part.replace("the", "teh", 1)) for part in paragraphs]
    return {
        "proofread": mistaken,
        **tasks,
        "open": [item["prompt"] for item in bundle.rehearsal()[3 : 3 + 14 * texts : 14]],
    }


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path, exists=True, file_okay=False), help="[the shipped student]")
@click.option("--texts", type=click.IntRange(1), default=10, show_default=True, help="Prompts of each kind.")
@click.option("--tokens", type=click.IntRange(2), default=48, show_default=True, help="Longest answer.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(bundle: Path | None, texts: int, tokens: int, as_json: bool) -> None:
    """Measure one student."""
    opened = Bundle.open(bundle) if bundle else shipped_bundle()
    if opened is None:
        raise click.ClickException("no student is shipped with this checkout; give one with --bundle")
    chat = Chat.open(opened)
    engines = {ahead: PortableEngine(opened, threads=1, ahead=ahead) for ahead in (False, True)}
    rows: list[dict[str, Any]] = []
    for kind, prompts in asked(opened, texts).items():
        used, written, same = {False: 0.0, True: 0.0}, {False: 0, True: 0}, 0
        for text in prompts:
            ids, answers = chat.encode(text), []
            for ahead, engine in engines.items():
                track = engine.begin()
                track.extend(ids[:-1])
                began = time.process_time()
                request = Decoding(max_new_tokens=tokens, stop=chat.stop_tokens, measured=False)
                answers.append([step.token for step in decode(track, ids, request)])
                used[ahead] += time.process_time() - began
                written[ahead] += len(answers[-1])
                track.close()
            same += answers[0] == answers[1]
        cost = {ahead: 1000 * used[ahead] / max(1, written[ahead]) for ahead in used}
        rows.append(
            {"kind": kind, "answers": len(prompts), "same": same, "tokens": written[False], "ms": cost[False],
             "ahead_ms": cost[True], "ratio": cost[False] / cost[True]}
        )  # fmt: skip
    shown = [
        [row["kind"], str(row["answers"]), str(row["same"]), str(row["tokens"]), f"{row['ms']:.2f}",
         f"{row['ahead_ms']:.2f}", f"{row['ratio']:.2f}"]
        for row in rows
    ]  # fmt: skip
    columns = ["asked", "answers", "the same", "tokens", "CPU, ms a token", "looking ahead", "×"]
    show({"rows": rows, "longest": tokens}, table(columns, shown), as_json=as_json)


if __name__ == "__main__":
    main()
