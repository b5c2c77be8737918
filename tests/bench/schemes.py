"""A student and held-out text and tasks in, what each compression costs in quality, out.

Run with `python -m tests.bench.schemes --student FOLDER --text FILE --tasks FILE [--schemes int8,…] [--items N]`.

Each scheme of `limbeck build compress` is applied to the student's values, written, read back, and scored by legs of
`limbeck build evaluate`: bits per byte of text, and the quality of device tasks, beside the same figures of the student
itself. A student that is packed stands on a 4-bit grid; its values are compressed again, as a plain checkpoint's would
be, which says what a scheme costs this student, not what it would cost weights that never were rounded.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from sdk.build.checkpoint import open_checkpoint, save_checkpoint
from sdk.build.compress import SCHEMES, compress
from sdk.build.coreml.student import checkpoint_of
from sdk.build.evaluate.device_tasks import read_tasks, tasks_leg
from sdk.build.evaluate.language import bits_per_byte, read_texts
from sdk.build.evaluate.opened import load


def row_of(name: str, folder: Path, texts: list[str], tasks: list[Any]) -> dict[str, Any]:
    """Quality of one checkpoint."""
    model, tokenizer = load(folder)
    text = bits_per_byte(model, tokenizer, texts)
    found: dict[str, Any] = {"scheme": name, "bits_per_byte": [text.value, text.low, text.high]}
    if tasks:
        scored = tasks_leg(model, tokenizer, tasks).estimates()
        found |= {
            score: [made.value, made.low, made.high] for score, made in scored.items() if score in ("quality", "exact")
        }
    return found


def main() -> None:
    """Print one JSON object for the student and one for each scheme."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--tasks", type=Path, help="As `limbeck build curriculum --held-out` writes them.")
    parser.add_argument("--schemes", default=",".join(SCHEMES))
    parser.add_argument(
        "--items", type=int, default=40, help="Passages of 512 bytes, and tasks; 0 tasks with --text only."
    )
    given = parser.parse_args()
    if given.student is None or given.text is None:
        print("skipped: needs --student FOLDER and --text FILE", file=sys.stderr)
        return
    torch.set_num_threads(1)
    texts = read_texts(given.text, most_passages=given.items, most_bytes=512)
    tasks = read_tasks(given.tasks, most=given.items) if given.tasks else []
    with tempfile.TemporaryDirectory() as work:
        plain = Path(work) / "plain"
        save_checkpoint(*open_checkpoint(checkpoint_of(given.student)), plain)  # Its values, on no declared grid.
        print(json.dumps(row_of("as it is", plain, texts, tasks)), flush=True)
        for scheme in given.schemes.split(","):
            made = compress(plain, Path(work) / scheme, scheme)
            worst = max(made.errors.values())
            facts = {"megabytes": made.bytes / 1e6, "bits": made.bits, "worst_error": worst}
            print(json.dumps(row_of(scheme, Path(work) / scheme, texts, tasks) | facts), flush=True)


if __name__ == "__main__":
    main()
