"""A plan file in, a student's folder out: find the teacher, ask whether its licence lets it teach, distil, write."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from transformers import LlamaForCausalLM

from sdk.build.many import ALONE, Group
from sdk.build.package import BASE_LICENCE, smollm2_gguf
from sdk.build.plan import BuildPlan
from sdk.build.sequences import answered_by
from sdk.build.start import Start
from sdk.build.still import distil
from sdk.build.student_folder import totals, write_student
from sdk.build.teachers.licences import require_shippable
from sdk.build.teachers.white_box import WhiteBox
from sdk.errors import DistillError, PlanError

__all__ = ["INSTALLED_TEACHER", "make_student"]

INSTALLED_TEACHER = "smollm2-135m-instruct"


def make_student(
    plan_file: Path,
    *,
    out: Path,
    work: Path,
    accepted: Collection[str],
    progress: Callable[[str, int, int], None],
    group: Group = ALONE,
) -> dict[str, Any]:
    """Make the student of a plan, and say what came out.

    Args:
        plan_file: A build plan; its relative files stand beside it.
        out: Folder of the student; must not exist.
        work: Folder for half-done work.
        accepted: Licences beside the permissive ones that may teach, by weights or by answers among the tasks.
        progress: Told (what, done, total).
        group: The processes that make it together, all with the same arguments; the first one writes.

    Returns:
        What training.json says, with `layers`, `vocabulary`, `parameters`, `bytes` and the last `loss`.

    Raises:
        PlanError: The plan or one of its files cannot be read, or its start is of another shape or teacher.
        TeacherError: The teacher cannot be read.
        LicenceError: The licence of a teacher was not accepted; nothing was begun.
        DistillError: The teacher is no Llama, `out` exists, or training stopped.
    """
    if out.exists():
        raise DistillError(f"{out} exists; name another folder or remove it")
    plan = BuildPlan.read(plan_file)
    teacher = _teacher(plan, plan_file.parent)
    start = Start.read(plan_file.parent / plan.start, plan) if plan.start else None
    answers_by = answered_by(plan_file.parent / file for file in plan.tasks)
    if start:
        before = ((one["teacher"], one["licence"]) for one in start.training.get("answers_by", []))
        answers_by = sorted({*answers_by, *before})
    for licence in (teacher.facts.licence, *(licence for _, licence in answers_by)):
        require_shippable(licence, accepted=accepted)
    if not isinstance(teacher.model, LlamaForCausalLM):
        raise DistillError(
            f"{plan.teacher} is a {type(teacher.model).__name__}; students are cut from Llamas, others teach by answers"
        )
    if plan.layers[-1] >= teacher.layers:
        raise PlanError(f"the teacher has {teacher.layers} layers, the plan keeps layer {plan.layers[-1]}")
    teach = teacher.model, teacher.tokenizer
    made = distil(plan, teach, start, folder=plan_file.parent, work=work, progress=progress, group=group)
    facts: dict[str, Any] = {"teacher": teacher.facts.name, "licence": teacher.facts.licence}
    if answers_by:
        facts["answers_by"] = [{"teacher": name, "licence": licence} for name, licence in answers_by]
    if start:
        facts["start"] = start.told
    if group.first:
        write_student(made, plan, out, facts=facts)
    group.wait()
    losses = [loss for _, loss in made.rounds[-1].losses]
    return {
        **facts,
        **totals(made.rounds),
        "loss": sum(losses[-20:]) / max(1, len(losses[-20:])),
        "layers": len(plan.layers),
        "vocabulary": len(made.trimmed.kept),
        "parameters": sum(parameter.numel() for parameter in made.model.parameters()),
        "bytes": (out / "model.safetensors").stat().st_size,
    }


def _teacher(plan: BuildPlan, folder: Path) -> WhiteBox:
    if plan.teacher == INSTALLED_TEACHER:
        return WhiteBox.open(smollm2_gguf(), licence=BASE_LICENCE)
    return WhiteBox.open(folder / plan.teacher)
