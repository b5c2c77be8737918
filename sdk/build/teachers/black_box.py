"""An endpoint's address in, a teacher that only writes text out: any service that speaks OpenAI's chat format.

An answer is paid for once: it is kept in the cache before anybody sees it, so a rerun or a resumed run asks only for
what is missing.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sdk.build.losses.outcomes import TopK
from sdk.build.teachers.answer_cache import AnswerCache, request_digest
from sdk.build.teachers.endpoint import Endpoint
from sdk.build.teachers.price import Estimate, Meter, prompt_tokens
from sdk.build.teachers.protocol import Answer, Depth, Prompt, Sampling, TeacherFacts
from sdk.errors import EndpointError, PromptRefusedError, TeacherError

__all__ = ["BlackBox"]

OURS = frozenset({"model", "messages", "stream", "n"})
"""Fields of a request that `extra` may not change: the answer would be read wrongly, or belong to somebody else."""


@dataclass(frozen=True, kw_only=True)
class BlackBox:
    """One model behind one endpoint."""

    endpoint: Endpoint
    """Where."""
    model: str
    """As the endpoint calls it."""
    cache: AnswerCache
    """What was answered before."""
    licence: str = "unknown"
    """Terms under which the endpoint's answers may be used."""
    meter: Meter = field(default_factory=Meter)
    """What this run spends."""
    at_once: int = 4
    """Requests that are under way at the same time."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields to add to each request; None takes one of ours away."""

    def __post_init__(self) -> None:
        """Refuse a field of `extra` that is ours.

        Raises:
            ValueError: One is.
        """
        if taken := OURS & self.extra.keys():
            raise ValueError(f"{', '.join(sorted(taken))} cannot be set by hand")

    @property
    def spent(self) -> float | None:
        """What this run has cost until now; None where nobody said the price."""
        return self.meter.spent if self.meter.price else None

    @property
    def facts(self) -> TeacherFacts:
        """Who teaches."""
        return TeacherFacts(name=self.model, depth=Depth.TEXT, licence=self.licence, origin=self.endpoint.url)

    def text(self, prompts: Sequence[Prompt], sampling: Sampling = Sampling()) -> list[Answer]:  # noqa: B008  # Frozen.
        """Answer each prompt. One that the endpoint refuses has a reason instead of a text; the others go on.

        Raises:
            EndpointError: The endpoint cannot be used. What it answered until then is in the cache.
            CostError: The next answer could pass the limit.
        """
        with ThreadPoolExecutor(max_workers=self.at_once) as pool:
            pending = [pool.submit(self._answer, prompt, sampling) for prompt in prompts]
            try:
                return [one.result() for one in pending]
            finally:
                for one in pending:
                    one.cancel()

    def log_probabilities(self, ids: Tensor, top_k: int) -> TopK:
        """Refused: text is all that is asked of this teacher.

        Raises:
            TeacherError: Always.
        """
        raise TeacherError(f"{self.model} gives text only; for log-probabilities take grey_box or weights")

    def estimate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Estimate:
        """What answering these prompts will take, without asking for anything."""
        bodies = [self._body(prompt, sampling) for prompt in prompts]
        missing = [body for body in bodies if self.cache.get(request_digest(self.endpoint.url, body)) is None]
        input_tokens = sum(_prompt_tokens(body) for body in missing)
        output_tokens = len(missing) * sampling.max_new_tokens
        price = self.meter.price
        return Estimate(
            requests=len(missing),
            cached=len(bodies) - len(missing),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost=price.of(input_tokens, output_tokens) if price else None,
            limit=self.meter.limit,
        )

    def _body(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": turns,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
        }
        if sampling.temperature:
            body["seed"] = sampling.seed
        return {name: value for name, value in {**body, **self.extra}.items() if value is not None}

    def _answer(self, prompt: Prompt, sampling: Sampling) -> Answer:
        body = self._body(prompt, sampling)
        digest = request_digest(self.endpoint.url, body)
        found = self.cache.get(digest)
        if found is None:
            try:
                found = self._asked(body, sampling.max_new_tokens)
            except PromptRefusedError as refused:
                return Answer(text="", finish="refused", reason=str(refused))  # Not kept: another day it may answer.
            self.cache.put(digest, found)
        if not found["text"]:
            return Answer(text="", finish="refused", reason=f"an empty answer ({found['finish']})")
        return Answer(text=found["text"], finish=found["finish"])

    def _asked(self, body: Mapping[str, Any], longest: int) -> dict[str, Any]:
        most = (_prompt_tokens(body), longest)
        self.meter.open(*most)
        used = (0, 0)
        lost = 0

        def count_lost() -> None:
            nonlocal lost
            lost += 1

        try:
            answer = self.endpoint.post("chat/completions", body, lost=count_lost)
            found = _read(answer, self.endpoint.url)
            used = found.pop("used") or most
        finally:
            self.meter.close(most, (used[0] + lost * most[0], used[1] + lost * most[1]))
        return found


def _prompt_tokens(body: Mapping[str, Any]) -> int:
    return prompt_tokens(len(json.dumps(body["messages"], ensure_ascii=False).encode()))


def _read(answer: Mapping[str, Any], url: str) -> dict[str, Any]:
    """Text, finish and used tokens of a chat completion.

    Raises:
        EndpointError: It is of another shape.
    """
    match answer:
        case {"choices": [{"message": {"content": str() | None as text}} as choice, *_]}:
            pass
        case {"error": _}:
            raise EndpointError(f"{url} answers 200 with an error inside; it is not OpenAI's chat format")
        case _:
            fields = ", ".join(sorted(map(str, answer))[:5]) or "nothing"
            raise EndpointError(
                f"{url} answers without choices[0].message.content (it has {fields}); is it a chat model?"
            )
    used: tuple[int, int] | None = None
    match answer.get("usage"):
        case {"prompt_tokens": int(asked), "completion_tokens": int(written)} if asked >= 0 and written >= 0:
            used = (asked, written)
    return {"text": text or "", "finish": str(choice.get("finish_reason") or "stop"), "used": used}
