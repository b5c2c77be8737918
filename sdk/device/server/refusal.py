"""What went wrong in, OpenAI's form of an error out: status, words, type, the field at fault."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from personalize.errors import PersonalizeError
from sdk.errors import GenerationError, PromptTooLongError, SdkError

__all__ = ["ErrorBody", "Refusal", "refusal_of", "unfit"]

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "server_busy"}


class ErrorDetail(BaseModel):
    """What went wrong, how much, what to do next."""

    model_config = ConfigDict(frozen=True)

    message: str = Field(description="One sentence for a person.")
    type: str = Field(description="Kind of error, such as invalid_request_error or rate_limit_error.")
    param: str | None = Field(description="The field of the request at fault, where there is one.")
    code: str | None = Field(description="A short name that programs may compare.")


class ErrorBody(BaseModel):
    """Every refusal of this server."""

    model_config = ConfigDict(frozen=True)

    error: ErrorDetail


class Refusal(Exception):
    """A request that is not answered: it carries what the client is told instead."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_seconds: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Say why.

        Args:
            status: Of HTTP, 400 to 599.
            message: One sentence: what, how much, what next.
            code: A short name that programs may compare.
            param: The field at fault.
            retry_seconds: When it is worth another try.
            headers: More headers of the response.
        """
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})
        if retry_seconds is not None:
            self.headers["retry-after"] = str(max(1, math.ceil(retry_seconds)))

    def body(self) -> dict[str, Any]:
        """What the client is told."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        detail = ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code)
        return ErrorBody(error=detail).model_dump()

    def content(self) -> bytes:
        """The same as JSON."""
        return json.dumps(self.body()).encode()


def refusal_of(cause: Exception) -> Refusal:
    """What a client is told of an error that answering raised; words of unexpected ones stay on this machine."""
    if isinstance(cause, Refusal):
        return cause
    if isinstance(cause, PromptTooLongError):
        return Refusal(400, str(cause), code="context_length_exceeded", param="messages")
    if isinstance(cause, GenerationError):
        return Refusal(400, str(cause))
    if isinstance(cause, PersonalizeError):
        return Refusal(500, str(cause), code="adapter")
    if isinstance(cause, SdkError):
        return Refusal(500, str(cause), code="not_answered")
    return Refusal(500, "the server failed at this request; its log on the machine says why", code="failed")


def unfit(problems: Sequence[Mapping[str, Any]], body: Any) -> Refusal:
    """A body that is no request of this server, told by the problem that lies deepest in it.

    Args:
        problems: As pydantic lists them, where a choice between forms names the problems of each form.
        body: What was sent.
    """
    placed = [(_place(problem, body), problem) for problem in problems]
    place, problem = max(placed, key=lambda each: each[0].count("."), default=("", {"type": "", "msg": "no request"}))
    param = place or None
    if problem["type"] == "json_invalid":
        return Refusal(400, "the body is not JSON; send one JSON object as application/json", code="not_json")
    if problem["type"] == "extra_forbidden":
        return Refusal(400, f"{place} is not a field of this server; leave it out", code="unknown_field", param=param)
    words = str(problem["msg"]).removeprefix("Value error, ")
    return Refusal(400, f"{place or 'the body'}: {words}", code="invalid_value", param=param)


def _place(problem: Mapping[str, Any], body: Any) -> str:
    """Where in the body a problem is, without the names that pydantic gives to forms of a field."""
    steps = [step for step in problem.get("loc", ()) if step != "body"]
    path: list[str] = []
    for number, step in enumerate(steps):
        inside = (isinstance(body, dict) and step in body) or (isinstance(body, list) and isinstance(step, int))
        if inside:
            body = body[step] if isinstance(body, dict) or step < len(body) else None
        if inside or (problem["type"] == "missing" and number == len(steps) - 1):
            path.append(str(step))
    return ".".join(path)
