"""Prompts in, a teacher's answers out, as JSON lines that keep what stood beside each prompt.

Rules: the file only grows, by whole lines, batch after batch. A run that goes on first drops a line that a kill cut in
two, then asks for what is missing. It refuses a file of another run: one file, one teacher, one setting.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdk.build.teachers.price import Estimate
from sdk.build.teachers.protocol import Answer, Prompt, Sampling, Teacher
from sdk.errors import BuildError, EndpointError

__all__ = ["AnswersReport", "Item", "estimate_answers", "read_prompts", "write_answers"]

FORMAT = "teacher_answer/1"
MAX_FILE_BYTES = 512 * 1024 * 1024  # Read whole; a million prompts are about half of it.
REFUSED_IN_A_ROW = 8  # From here on it is not the prompts.


@dataclass(frozen=True, kw_only=True)
class Item:
    """One line of a prompts file."""

    prompt: Prompt
    """What to ask."""
    fields: dict[str, Any]
    """All that stood in the line; it goes along to the answer."""

    @property
    def digest(self) -> str:
        """Names the prompt, 16 hex digits: the same prompt is asked once."""
        return _digest(self.prompt)


@dataclass(frozen=True, kw_only=True)
class AnswersReport:
    """What a run did."""

    prompts: int
    """Different prompts in the file."""
    already: int
    """Answered by an earlier run."""
    written: int
    """Answers that this run added."""
    cut: int
    """Of those, how many ended at the longest answer instead of by themselves."""
    refused: int
    """Prompts that the teacher did not answer; they are asked again by the next run."""
    first_refusal: str
    """Why, for the first of them."""
    cost: float | None
    """Of this run, in the currency of the price; None where nobody said the price."""
    stopped: bool
    """Somebody asked to stop; `resume` goes on."""


def read_prompts(file: Path) -> list[Item]:
    """Read JSON lines, each with a `prompt`: a text, or a list of messages with `role` and `content`.

    Raises:
        BuildError: Not there, too large, or a line of another shape; it is named.
    """
    found: dict[str, Item] = {}
    for number, line in _lines(file, _content(file)):
        prompt: Any = line.get("prompt")
        if not _is_prompt(prompt):
            raise BuildError(f"{file} line {number} has no prompt: a text, or messages with role and content")
        item = Item(prompt=prompt, fields=line)
        found.setdefault(item.digest, item)
    if not found:
        raise BuildError(f"{file} holds no prompts; write one JSON object a line, each with a prompt")
    return list(found.values())


def estimate_answers(
    teacher: Teacher, items: Sequence[Item], out: Path, sampling: Sampling, *, resume: bool = False
) -> Estimate:
    """What write_answers with the same arguments would ask for and what it may cost; nothing is asked.

    Raises:
        BuildError: `out` is there and `resume` is not set, or is of another run.
    """
    missing = _missing(items, out, _run(teacher, sampling), resume=resume)
    return teacher.estimate([item.prompt for item in missing], sampling)


def write_answers(
    teacher: Teacher,
    items: Sequence[Item],
    out: Path,
    sampling: Sampling,
    *,
    resume: bool = False,
    batch: int = 8,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> AnswersReport:
    """Ask a teacher and append its answers to a file.

    Args:
        teacher: Any.
        items: What to ask.
        out: JSON lines; made where it is missing.
        sampling: How answers are drawn.
        resume: Go on with a file that holds answers already.
        batch: Prompts asked at once; as many answers can be lost by a kill.
        stop: Asked between batches.
        progress: Told (what, done, total).

    Raises:
        BuildError: `out` is there and `resume` is not set, is of another run, or cannot be written.
        CostError: It could cost more than the teacher's limit; nothing was asked.
        TeacherError: The teacher gave up. What it answered before is in `out`.
    """
    run = _run(teacher, sampling)
    missing = _missing(items, out, run, resume=resume)
    teacher.estimate([item.prompt for item in missing], sampling).require_affordable()
    written = cut = refused = in_a_row = 0
    first_refusal, stopped = "", False
    progress("ask the teacher", len(items) - len(missing), len(items))
    for start in range(0, len(missing), batch):
        if stopped := stop():
            break
        asked = missing[start : start + batch]
        answers = teacher.text([item.prompt for item in asked], sampling)
        lines = []
        for item, answer in zip(asked, answers, strict=True):
            if answer.finish == "refused":
                refused, in_a_row, first_refusal = refused + 1, in_a_row + 1, first_refusal or answer.reason
                continue
            in_a_row = 0
            written, cut = written + 1, cut + (answer.finish == "length")
            lines.append(_line(item, answer, teacher, run))
        _append(out, lines)
        progress("ask the teacher", len(items) - len(missing) + start + len(asked), len(items))
        if in_a_row >= REFUSED_IN_A_ROW:
            raise EndpointError(
                f"{teacher.facts.name} refused {in_a_row} prompts in a row, first: {first_refusal}; "
                f"{written} answers are in {out.name}"
            )
    return AnswersReport(
        prompts=len(items),
        already=len(items) - len(missing),
        written=written,
        cut=cut,
        refused=refused,
        first_refusal=first_refusal,
        cost=teacher.spent,
        stopped=stopped,
    )


def _run(teacher: Teacher, sampling: Sampling) -> str:
    return _digest([asdict(teacher.facts), asdict(sampling)])


def _missing(items: Sequence[Item], out: Path, run: str, *, resume: bool) -> list[Item]:
    done = _continued(out, run) if resume else _fresh(out)
    return [item for item in items if item.digest not in done]


def _line(item: Item, answer: Answer, teacher: Teacher, run: str) -> str:
    fields = dict(item.fields)
    if "answer" in fields:
        fields["reference"] = fields.pop("answer")
    facts = teacher.facts
    told = {
        "format": FORMAT,
        "prompt_digest": item.digest,
        "answer": answer.text,
        "finish": answer.finish,
        "teacher": facts.name,
        "teacher_licence": facts.licence,
        "run": run,
    }
    return json.dumps({**fields, **told}, ensure_ascii=False) + "\n"


def _fresh(out: Path) -> set[str]:
    if out.exists() and out.stat().st_size:
        raise BuildError(f"{out} is there already; go on with --resume, or name another file")
    return set()


def _continued(out: Path, run: str) -> set[str]:
    """Digests of what is answered; the file is cut back to whole lines once it is known to be ours."""
    if not out.exists():
        return set()
    content = _content(out)
    whole, newline, torn = content.rpartition("\n")
    done = set()
    for number, line in _lines(out, whole):
        if line.get("format") != FORMAT or not isinstance(line.get("prompt_digest"), str):
            raise BuildError(f"{out} line {number} is not of format {FORMAT}; it was left alone, name another file")
        if line.get("run") != run:
            raise BuildError(
                f"{out} line {number} is by {line.get('teacher')} under other settings; go on with the same call, "
                "or name another file"
            )
        done.add(line["prompt_digest"])
    if torn and not done and not torn.startswith("{"):
        raise BuildError(f"{out} is not of format {FORMAT}; it was left alone, name another file")
    if torn:
        with out.open("rb+") as file:
            file.truncate(len((whole + newline).encode()))
    return done


def _append(out: Path, lines: Sequence[str]) -> None:
    try:
        with out.open("a", encoding="utf-8") as file:
            file.writelines(lines)
    except OSError as cause:
        raise BuildError(
            f"{out} cannot be written ({cause.strerror}); free some room and go on with --resume"
        ) from cause


def _content(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise BuildError(f"{file} has over {MAX_FILE_BYTES / 1e6:.0f} MB; split it")
        return file.read_bytes().decode()
    except (OSError, UnicodeError) as cause:
        raise BuildError(
            f"{file} cannot be read as text ({type(cause).__name__}); name a file of JSON lines"
        ) from cause


def _lines(file: Path, content: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers and objects of the lines that are not empty."""
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                found = json.loads(line)
            except ValueError as cause:
                raise BuildError(f"{file} line {number} is not JSON; nothing was asked") from cause
            if not isinstance(found, dict):
                raise BuildError(f"{file} line {number} is no JSON object; nothing was asked")
            yield number, found


def _is_prompt(value: Any) -> bool:
    match value:
        case str():
            return bool(value.strip())
        case [_, *_]:
            return all(
                isinstance(turn, dict)
                and turn.keys() == {"role", "content"}
                and all(isinstance(part, str) for part in turn.values())
                for turn in value
            )
    return False


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
