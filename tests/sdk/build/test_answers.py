"""A file of answers only grows, survives any end of the process, and holds one teacher under one setting."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from sdk.build import answers
from sdk.build.answers import Item, estimate_answers, read_prompts, write_answers
from sdk.build.teachers.price import Estimate
from sdk.build.teachers.protocol import Answer, Depth, Prompt, Sampling, TeacherFacts
from sdk.errors import BuildError, CostError, EndpointError

FACTS = TeacherFacts(name="echo", depth=Depth.TEXT, licence="mit", origin="here")


@dataclass
class Echo:
    """A teacher that says a prompt in capitals; refuses one with `no`, gives up at one with `fail`."""

    facts: TeacherFacts = FACTS
    spent: float | None = 0.0
    limit: float | None = None
    asked: list[Prompt] = field(default_factory=list)

    def estimate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Estimate:
        count = len(prompts)
        return Estimate(
            requests=count, cached=0, input_tokens=count, output_tokens=count, cost=float(count), limit=self.limit
        )

    def text(self, prompts: Sequence[Prompt], sampling: Sampling = Sampling()) -> list[Answer]:  # noqa: B008
        self.asked += prompts
        if any("fail" in prompt for prompt in prompts):
            raise EndpointError("gave up")
        return [
            Answer(text="", finish="refused", reason="does not like it")
            if "no" in prompt
            else Answer(text=str(prompt).upper(), finish="length" if "long" in prompt else "stop")
            for prompt in prompts
        ]

    def log_probabilities(self, ids: Any, top_k: int) -> Any:
        raise NotImplementedError


def items(*prompts: str) -> list[Item]:
    return [Item(prompt=prompt, fields={"prompt": prompt}) for prompt in prompts]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write(teacher: Any, some: Sequence[Item], out: Path, **options: Any) -> Any:
    return write_answers(teacher, some, out, Sampling(), batch=2, **options)


def test_an_answer_carries_what_stood_beside_its_prompt(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        '{"prompt": "a", "task": "title", "answer": "gold", "licence": "cc0-1.0"}\n\n' + '{"prompt": "long"}\n'
    )
    report = write(Echo(), read_prompts(prompts), tmp_path / "out.jsonl")
    first, second = lines(tmp_path / "out.jsonl")
    assert first.pop("run") == second["run"]
    assert len(first.pop("prompt_digest")) == 16
    assert first == {
        "format": "teacher_answer/1",
        "prompt": "a",
        "task": "title",
        "licence": "cc0-1.0",
        "reference": "gold",
        "answer": "A",
        "finish": "stop",
        "teacher": "echo",
        "teacher_licence": "mit",
    }
    assert second["finish"] == "length"
    assert (report.prompts, report.written, report.cut, report.refused) == (2, 2, 1, 0)


def test_a_prompt_may_be_a_conversation_and_is_asked_once(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in (talk, "a", talk, "a")))
    assert [item.prompt for item in read_prompts(prompts)] == [talk, "a"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "holds no prompts"),
        (b"{}\n", "line 1 has no prompt"),
        (b'{"prompt": "a"}\n\n{"prompt": " "}\n', "line 3 has no prompt"),
        (b'{"prompt": [{"role": "user"}]}\n', "line 1 has no prompt"),
        (b'{"prompt": "a"}\nnot json\n', "line 2 is not JSON"),
        (b"[1]\n", "line 1 is no JSON object"),
        (b'{"prompt": "\xff"}\n', "cannot be read as text"),
    ],
)
def test_a_prompts_file_of_another_shape_names_its_line(tmp_path: Path, content: bytes, line: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(content)
    with pytest.raises(BuildError, match=line):
        read_prompts(file)


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    out, some = tmp_path / "out.jsonl", items("a", "b", "c", "d", "e")
    looks = iter([False, False, True])
    report = write(Echo(), some, out, stop=lambda: next(looks))
    assert (report.written, report.stopped) == (4, True)
    second = Echo()
    report = write(second, some, out, resume=True)
    assert (report.already, report.written, report.stopped) == (4, 1, False)
    assert second.asked == ["e"]
    assert [one["answer"] for one in lines(out)] == ["A", "B", "C", "D", "E"]


@pytest.mark.parametrize("torn_at", [1, 5, 40, -1])
def test_a_line_that_a_kill_cut_in_two_is_asked_for_again(tmp_path: Path, torn_at: int) -> None:
    out, some = tmp_path / "out.jsonl", items("a", "ünï", "c")
    write(Echo(), some, out)
    whole = out.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    out.write_bytes(whole[:start] + whole[start:][:torn_at])
    second = Echo()
    write(second, some, out, resume=True)
    assert second.asked == ["c"]
    assert out.read_bytes() == whole


def test_a_resume_that_keeps_a_torn_line_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, some = tmp_path / "out.jsonl", items("a", "b", "c")
    write(Echo(), some, out)
    out.write_bytes(out.read_bytes()[:-5])
    monkeypatch.setattr(Path, "open", _without_truncate(Path.open))
    write(Echo(), some, out, resume=True)
    with pytest.raises(json.JSONDecodeError):
        lines(out)


def _without_truncate(real: Any) -> Any:
    class Kept:
        def __enter__(self) -> "Kept":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def truncate(self, size: int) -> None:
            pass

    return lambda self, mode="r", *rest, **named: Kept() if mode == "rb+" else real(self, mode, *rest, **named)


def test_a_failure_keeps_what_was_written_before(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(EndpointError, match="gave up"):
        write(Echo(), items("a", "b", "c", "fail"), out)
    assert [one["answer"] for one in lines(out)] == ["A", "B"]


def test_refused_prompts_are_counted_left_out_and_asked_again(tmp_path: Path) -> None:
    out, some = tmp_path / "out.jsonl", items("a", "no", "c")
    report = write(Echo(), some, out)
    assert (report.written, report.refused, report.first_refusal) == (2, 1, "does not like it")
    second = Echo()
    write(second, some, out, resume=True)
    assert second.asked == ["no"]


def test_a_teacher_that_refuses_everything_is_not_asked_for_ever(tmp_path: Path) -> None:
    teacher = Echo()
    with pytest.raises(EndpointError, match="refused 8 prompts in a row, first: does not like it; 2 answers are in"):
        write(teacher, items("a", "b", *(f"no {number}" for number in range(100))), tmp_path / "out.jsonl")
    assert len(teacher.asked) == 10


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    write(Echo(), items("a"), out)
    before = out.read_bytes()
    with pytest.raises(BuildError, match="go on with --resume"):
        write(Echo(), items("b"), out)
    assert out.read_bytes() == before


@pytest.mark.parametrize("content", ["my diary\n", "my diary", '{"prompt": "x"}\n', '{"a": 1}\nmy dia'])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(content)
    with pytest.raises(BuildError, match=r"not JSON|left alone"):
        write(Echo(), items("a"), out, resume=True)
    assert out.read_text() == content


def test_a_file_of_another_teacher_or_setting_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    write(Echo(), items("a"), out)
    with pytest.raises(BuildError, match="line 1 is by echo under other settings"):
        write(Echo(facts=replace(FACTS, name="other")), items("b"), out, resume=True)
    with pytest.raises(BuildError, match="under other settings"):
        write_answers(Echo(), items("b"), out, Sampling(temperature=1), resume=True)


def test_a_cost_over_the_limit_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    teacher, out = Echo(limit=1.0), tmp_path / "out.jsonl"
    with pytest.raises(CostError, match=r"2 answers may cost 2\.0000, over the limit of 1\.0000"):
        write(teacher, items("a", "b"), out)
    assert teacher.asked == []
    assert not out.exists()
    teacher.limit = 2.0
    write(teacher, items("a", "b"), out)
    teacher.limit = 1.0
    assert estimate_answers(teacher, items("a", "b", "c"), out, Sampling(), resume=True).requests == 1


def test_a_disk_that_is_full_is_one_clear_line(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(BuildError, match=r"cannot be written \(No space left on device\); free some room"):
        answers._append(full, ["a line\n"])
