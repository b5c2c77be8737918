"""A device task and a text in, its answer out: what apps ask most, one line each, for whoever can answer prompts.

They ask with the words that the shipped student was trained on (`sdk/tasks.py`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from sdk.device.answers.records import Answer
from sdk.device.chat import Message
from sdk.errors import GenerationError
from sdk.tasks import Action, action_schema, read_answer
from sdk.tasks import prompt as task_prompt

__all__ = ["ReadyTasks", "Tone"]

TONES: Mapping[str, str] = {"shorter": "shorter", "polite": "politer", "formal": "formal"}
Tone = Literal["shorter", "polite", "formal"]
MOST_TOKENS: Mapping[str, int] = {
    "shorter": 256, "politer": 256, "formal": 256, "proofread": 256, "title": 24, "action": 128, "intent": 128,
}  # fmt: skip
"""Of an answer; other tasks stop at 96."""


class ReadyTasks(ABC):
    """The tasks, on top of `answer`."""

    @abstractmethod
    def answer(self, prompt: str | Sequence[Message], **how: Any) -> Answer:
        """The whole record of an answer; see Assistant."""

    def task(self, name: str, text: str, *, max_new_tokens: int | None = None) -> Answer:
        """The whole record of a task's answer, which `feedback` can take; the others give its text or value alone.

        Args:
            name: One of `sdk.tasks.TASKS`; "action" is guided to one of sdk.tasks.ACTIONS.
            text: The person's.
            max_new_tokens: The answer stops here at the latest; None takes what the task needs.

        Raises:
            UnknownTaskError: There is no such task.
            GenerationError: As Assistant.pieces.
        """
        how: dict[str, Any] = {"max_new_tokens": max_new_tokens or MOST_TOKENS.get(name, 96)}
        if name == "action":
            how |= {"schema": _copying(action_schema()), "copy_from": text}
        return self.answer(task_prompt(name, text), **how)

    def summarize(self, text: str) -> str:
        """One sentence about a text."""
        return self._text("summary", text)

    def rewrite(self, text: str, tone: Tone = "polite") -> str:
        """The text in another tone: shorter, polite or formal."""
        if tone not in TONES:
            raise GenerationError(f"tone must be one of {', '.join(TONES)}, got {tone!r}")
        return self._text(TONES[tone], text)

    def reply(self, message: str) -> str:
        """A short reply to a message."""
        return self._text("reply", message)

    def title(self, text: str) -> str:
        """A short title for a text."""
        return self._text("title", text)

    def commit_message(self, change: str) -> str:
        """A commit message for a change, told in words or as a diff."""
        return self._text("commit", change)

    def proofread(self, text: str) -> str:
        """The text without its mistakes."""
        return self._text("proofread", text)

    def action(self, request: str) -> Action:
        """What an app is asked to do, as one of sdk.tasks.ACTIONS; open values are words of the request.

        Raises:
            AnswerError: No whole action came.
        """
        return cast(Action, read_answer("action", self.task("action", request).text))

    def _text(self, name: str, text: str) -> str:
        return self.task(name, text).text.strip()


def _copying(schema: Any) -> Any:
    """A schema whose open strings are copied from the request."""
    if isinstance(schema, list):
        return [_copying(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "string" and not {"enum", "const"} & set(schema):
        return {"type": "string", "x-copy": True}
    return {key: _copying(part) for key, part in schema.items()}
