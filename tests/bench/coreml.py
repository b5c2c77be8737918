"""A student and its package in, whether the package writes the same tokens out, how fast, and in how much memory.

Run with `python -m tests.bench.coreml --student FOLDER --package X.mlpackage [--prompts N] [--tokens N]`.

Legs, all on one thread:
    greedy     tokens of `--written` prompts in fp32 mode against torch: bare, and with made-up adapters of each kind
    argmax     likeliest next token after each of `--prompts` prompts, every operation rounded to its declared type
    speed      decode tokens a second in fp32 mode, of wall and of CPU time, and the process's largest memory
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from personalize.adapter import Adapter, AdapterSpec, attached, fresh
from personalize.trainable import Basis, trainable
from sdk.build.coreml.conversation import Conversation
from sdk.build.coreml.student import Student

KINDS = ("lora", "xs", "basis")
PROMPTS = Path("sdk/build/probes/own_words.jsonl")
SIZE = {"lora": 0.02, "xs": 0.3, "basis": 0.02}  # Of the made-up numbers: enough to change what is written.


def adapters(student: Student, layers: Sequence[int], rank: int) -> Iterator[tuple[str, Adapter]]:
    """A made-up adapter of each kind that clearly changes the student."""
    generator = torch.Generator().manual_seed(7)
    start = fresh(student.model, AdapterSpec(layers=tuple(layers), rank=rank), fits_base=student.base_digest)
    for kind in KINDS:
        directions = {site: torch.randn(4, *b.shape, generator=generator) for site, b in start.b.items()}
        basis = Basis(directions=directions, variance=torch.ones(4)) if kind == "basis" else None
        trained = trainable(kind, start, model=student.model, basis=basis)
        for parameter in trained.parameters:
            parameter.data += SIZE[kind] * torch.randn(parameter.shape, generator=generator)
        yield kind, trained.adapter()


@torch.no_grad()
def greedy(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """What torch writes, whatever it writes: no token stops it."""
    asked, cache, written = torch.tensor([list(prompt)]), None, []
    for _ in range(count):
        out = model(asked, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        written.append(int(out.logits[0, -1].argmax()))
        asked = torch.tensor([written[-1:]])
    return written


def prompts_of(file: Path, package: Path, count: int) -> list[list[int]]:
    """Token ids of the chat turns of the first `count` prompts."""
    tokenizer = Conversation.open(package).tokenizer()
    lines = [json.loads(line)["prompt"] for line in file.read_text(encoding="utf-8").splitlines()]
    found = []
    for prompt in lines[:count]:
        turn = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        found.append(list(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids))
    return found


def written_leg(student: Student, package: Path, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
    """Share of equal greedy tokens, bare and with each adapter."""
    slots = Conversation.open(package).contract.slots
    wanted = {"bare": [greedy(student.model, prompt, tokens) for prompt in prompts]}
    found: dict[str, list[list[int]]] = {"bare": []}
    seconds, cpu_seconds, decoded = 0.0, 0.0, 0
    for prompt in prompts:
        conversation = Conversation.open(package)
        logits = conversation.read(prompt)  # Weights are decompressed here.
        start, cpu, ids = time.perf_counter(), time.process_time(), [int(logits.argmax())]
        while len(ids) < tokens:
            ids.append(int(conversation.read(ids[-1:]).argmax()))
        seconds, decoded = seconds + time.perf_counter() - start, decoded + tokens - 1
        cpu_seconds += time.process_time() - cpu
        found["bare"].append(ids)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for kind, adapter in adapters(student, slots.layers, slots.rank) if slots else ():
        with tempfile.TemporaryDirectory() as folder:
            adapter.save(Path(folder) / kind)
            with attached(student.model, adapter):
                wanted[kind] = [greedy(student.model, prompt, tokens) for prompt in prompts[:1]]
            worn = Conversation.open(package, adapter=Path(folder) / kind)
            found[kind] = [list(worn.write(prompts[0], tokens))]
    return {
        "equal_tokens": {kind: _equal(found[kind], wanted[kind]) for kind in wanted},
        "changed_by": [kind for kind in wanted if kind != "bare" and wanted[kind][0] != wanted["bare"][0]],
        "decode_tokens_per_second": decoded / seconds,
        "decode_tokens_per_cpu_second": decoded / cpu_seconds,  # One thread: what a core of its own would give.
        "peak_megabytes_with_torch_model": memory,
    }


def _equal(found: list[list[int]], wanted: list[list[int]]) -> list[str]:
    """`equal/all` of each prompt, counted up to the first difference: what follows one is another text."""
    counts = []
    for mine, theirs in zip(found, wanted, strict=True):
        same = next((at for at, pair in enumerate(zip(mine, theirs, strict=True)) if pair[0] != pair[1]), len(theirs))
        counts.append(f"{same}/{len(theirs)}")
    return counts


@torch.no_grad()
def argmax_leg(student: Student, package: Path, prompts: list[list[int]]) -> dict[str, Any]:
    """Prompts whose likeliest next token is torch's, and the margin of those that differ."""
    conversation = Conversation.open(package, precision="declared")
    equal, differing = 0, []
    for at, prompt in enumerate(prompts):
        conversation.session.reset()
        conversation.position = 0
        mine = int(conversation.read(prompt).argmax())
        logits = student.model(torch.tensor([prompt])).logits[0, -1]
        equal += mine == int(logits.argmax())
        if mine != int(logits.argmax()):
            differing.append({"prompt": at, "margin_nats": float(logits.max() - logits[mine])})
    return {"prompts": len(prompts), "equal": equal, "differing": differing}


def main() -> None:
    """Run the legs and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", type=Path)
    parser.add_argument("--package", type=Path, help="Of `limbeck build coreml`; its cache may be state or arrays.")
    parser.add_argument("--prompts", type=int, default=500, help="Of the argmax leg; 0 leaves it out.")
    parser.add_argument("--from", dest="source", type=Path, default=PROMPTS, help="JSON lines with `prompt`.")
    parser.add_argument("--written", type=int, default=2, help="Prompts of the greedy leg; 0 leaves it out.")
    parser.add_argument("--tokens", type=int, default=120, help="Tokens written for each.")
    given = parser.parse_args()
    if given.student is None or given.package is None:
        print("skipped: needs --student FOLDER and --package X.mlpackage", file=sys.stderr)
        return
    torch.set_num_threads(1)
    student = Student.open(given.student)
    prompts = prompts_of(given.source, given.package, max(given.prompts, given.written))
    rows: dict[str, Any] = {"package": given.package.name}
    if given.written:
        rows |= written_leg(student, given.package, prompts[: given.written], given.tokens)
    if given.prompts:
        rows["declared_argmax"] = argmax_leg(student, given.package, prompts[: given.prompts])
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
