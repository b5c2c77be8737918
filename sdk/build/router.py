"""A model and held-out device tasks in, the router's calibration out: answered, rated, a head fitted, a threshold set.

What counts as right is `sdk.scoring.is_right`. Answers are decoded greedily, and their log-probabilities read in one
pass over prompt and answer. They are kept beside the output, batch after batch; the same call goes on from there.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdk.build.evaluate.decoding import chat_tokens, greedy
from sdk.build.evaluate.device_tasks import MAX_NEW_TOKENS, Task, read_tasks
from sdk.build.evaluate.interval import wilson
from sdk.build.evaluate.likelihood import finite_logits, hidden_states
from sdk.build.evaluate.opened import Opened, open_model
from sdk.confidence import Calibration, Evidence, Rated, calibrated
from sdk.errors import EvaluationError
from sdk.scoring import is_right
from sdk.tasks import STRUCTURED, fits

__all__ = ["make_router", "words_of"]

FORMAT = "rated/1"
BATCH = 32


@dataclass(frozen=True)
class Said:
    """A token of an answer, as evidence takes it."""

    log_probability: float
    margin: float
    entropy: float
    mask_share: float = 1.0


def make_router(
    folder: Path,
    tasks_file: Path,
    *,
    out: Path,
    risk: float = 0.05,
    most: int | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Calibration:
    """Answer the tasks, calibrate, and write `out`.

    Args:
        folder: A model folder or a bundle.
        tasks_file: Held-out device tasks: nothing that the model has learned from.
        out: The router.json; rated answers stand beside it.
        risk: Highest chance that an answer is wrong and kept on the device, in (0, 1).
        most: Of the tasks; None takes all.
        progress: Told (what, done, total).

    Raises:
        EvaluationError: The model or the tasks cannot be read.
        RouterError: Too few tasks; no file was written but the answers.
    """
    opened = open_model(folder)
    tasks = read_tasks(tasks_file, most=most)
    kept = out.with_suffix(".answers.jsonl")
    known = _known(kept, opened.digest)
    missing = [task for task in tasks if task.prompt not in known]
    missing.sort(key=lambda task: len(task.prompt))  # Alike in length: less padding.
    progress("answer the tasks", len(tasks) - len(missing), len(tasks))
    for start in range(0, len(missing), BATCH):
        made = rated(opened, missing[start : start + BATCH])
        with kept.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in made)
        known |= {line["prompt"]: line for line in made}
        progress("answer the tasks", len(tasks) - len(missing) + start + len(made), len(tasks))
    answers = [
        Rated(evidence=Evidence.from_dict(line["evidence"]), right=line["right"], kind=task.task)
        for task in tasks
        for line in (known[task.prompt],)
    ]
    calibration = calibrated(answers, base_digest=opened.digest, risk=risk)
    temporary = out.with_suffix(".tmp")
    temporary.write_bytes(calibration.to_json())
    temporary.replace(out)
    return calibration


def rated(opened: Opened, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Answer some tasks and rate the answers, one object a task."""
    prompts = [chat_tokens(opened.tokenizer, task.prompt) for task in tasks]
    stops = frozenset(opened.tokenizer.all_special_ids)
    answers = greedy(opened.model, prompts, max_new_tokens=MAX_NEW_TOKENS, stops=stops)
    lines = []
    for task, ids, steps in zip(tasks, answers, _steps(opened.model, prompts, answers), strict=True):
        text = str(opened.tokenizer.decode(ids, skip_special_tokens=True))
        evidence = Evidence.of_steps(steps, valid=fits(task.task, text) if task.task in STRUCTURED else None)
        lines.append(
            {
                "format": FORMAT,
                "base_digest": opened.digest,
                "task": task.task,
                "prompt": task.prompt,
                "wanted": task.wanted,
                "answer": text,
                "right": is_right(task.task, text, task.wanted, prompt=task.prompt),
                "evidence": evidence.to_dict(),
            }
        )
    return lines


def words_of(calibration: Calibration) -> str:
    """What a calibration says, for a person: shares with 95 % intervals on the part that nothing was fitted to."""
    report = calibration.report
    checked, kept = report["checked"], report["kept"]
    shares = {
        "right": wilson(report["right"], checked),
        "kept": wilson(kept, checked),
        "wrong and kept": wilson(report["wrong_and_kept"], checked),
    }
    lines = [f"{name:<15} {one.value:6.1%}  [{one.low:.1%}, {one.high:.1%}]" for name, one in shares.items()]
    if kept:
        among = wilson(report["wrong_and_kept"], kept)
        lines.append(f"wrong of kept   {among.value:6.1%}  [{among.low:.1%}, {among.high:.1%}]")
    area = "none" if report["auroc"] is None else f"{report['auroc']:.3f}"
    return "\n".join(
        [
            f"threshold {calibration.threshold:.3f} for at most {calibration.risk:.1%} of all answers wrong and kept",
            f"on {checked} of {report['answers']} answers that neither head nor threshold has seen:",
            *lines,
            f"AUROC of the confidence {area}, calibration error {report['calibration_error']:.3f}",
        ]
    )


@torch.no_grad()
def _steps(model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[list[Said]]:
    """Log-probability, margin and entropy of each answer's tokens, from one pass over prompts and answers."""
    hidden = hidden_states(model, [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)])
    found: list[list[Said]] = []
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        if not answer:
            found.append([])
            continue
        first = len(prompt) - 1
        logs = finite_logits(model, hidden[row, first : first + len(answer)]).log_softmax(1)  # (answer, vocab)
        said = logs.gather(1, torch.tensor(answer)[:, None])[:, 0]  # (answer,)
        best = logs.topk(2, dim=1).values  # (answer, 2)
        entropy = -(logs.exp() * logs).sum(1)  # (answer,)
        rows = torch.stack([said, best[:, 0] - best[:, 1], entropy], 1).tolist()
        found.append([Said(*values) for values in rows])
    return found


def _known(file: Path, digest: str) -> dict[str, dict[str, Any]]:
    """Rated answers of an earlier call, by prompt; a line that a kill cut in two is dropped."""
    if not file.exists():
        return {}
    whole, newline, torn = file.read_text(encoding="utf-8").rpartition("\n")
    try:
        lines = [json.loads(line) for line in whole.split("\n") if line]
        strange = next((line for line in lines if (line["format"], line["base_digest"]) != (FORMAT, digest)), None)
        known = {str(line["prompt"]): line for line in lines}
    except (ValueError, KeyError, TypeError) as cause:
        raise EvaluationError(f"{file} holds no rated answers ({type(cause).__name__}); name another --out") from cause
    if strange is not None:
        raise EvaluationError(f"{file} holds answers of another model; name another --out, or remove it")
    if torn:
        file.write_text(whole + newline, encoding="utf-8")
    return known
