"""A permitted question in, a large model's answer out, from any endpoint in OpenAI's format; or one typed error, soon.

Rules:
    1. Nothing is sent without a Permission for exactly these messages and this host; it is spent before anything else.
    2. Everything is over by the deadline: a slow, silent or dripping server cannot hold an app up.
    3. A question is asked once. Redirects are not followed. What fails is a CloudError, and the local answer stands.
    4. The key goes to the endpoint alone, and into no error, log or file. By a relay no key of one's own is sent, since
       it would tell the gateway who asks.
"""

import json
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.device.handoff.consent import Permission, canonical
from sdk.device.oblivious.binary_http import Request
from sdk.device.oblivious.client import ObliviousClient, Traffic
from sdk.device.oblivious.key_source import KeySource
from sdk.device.oblivious.wire import Address, Deadline, exchange, shown
from sdk.errors import CloudError, CloudGarbledError, CloudRefusedError

__all__ = ["KEY_VARIABLE", "Cloud", "CloudAnswer", "read_key"]

KEY_VARIABLE = "LIMBECK_CLOUD_KEY"
MAX_REPLY_BYTES = 4 * 1024 * 1024  # A long answer is some dozens of kB.
MAX_MESSAGES_BYTES = 512 * 1024  # Half of what gateway and relay take.
HINTS = {
    401: "; the key is not accepted",
    403: "; is the key, or this target, allowed there?",
    404: "; check address and model",
    429: "; too many questions, try later",
}


@dataclass(frozen=True, kw_only=True)
class CloudAnswer:
    """What the large model said."""

    text: str
    finish: str
    """As the endpoint says: `stop`, `length`, …"""
    model: str
    """As the endpoint names it; else as it was asked for."""
    prompt_tokens: int | None
    answer_tokens: int | None
    seconds: float
    oblivious: bool
    """Whether it came by the relay."""
    traffic: Traffic | None
    """Sealed bytes there and back; None without a relay."""


class Cloud:
    """One endpoint, asked directly or by a relay."""

    def __init__(
        self,
        endpoint: str,
        *,
        model: str,
        key: str | None = None,
        relay: str | None = None,
        keys: KeySource | None = None,
        key_is_shared: bool = False,
        deadline: float = 10.0,
    ) -> None:
        """Check what was given; nothing is asked.

        Args:
            endpoint: Its base, such as `https://host/v1`.
            model: Which of its models.
            key: Sent as a bearer token.
            relay: Address of an Oblivious HTTP relay; None asks the endpoint directly.
            keys: Of the gateway behind the relay.
            key_is_shared: Say so where `key` is the same for everybody, and may therefore go by the relay.
            deadline: Seconds for one question, everything included.

        Raises:
            CloudError: An address, key or combination that cannot be.
        """
        if (relay is None) != (keys is None):
            raise CloudError("a relay and the keys of its gateway go together: give both or none")
        if relay and key and not key_is_shared:
            raise CloudError(
                "a key of your own would tell the gateway who asks; let the gateway hold the key, "
                "or say key_is_shared where everybody has the same"
            )
        if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
            raise CloudError("the key of the endpoint holds characters that no header can carry")
        if not 0 < deadline < float("inf"):
            raise CloudError(f"the deadline is a positive number of seconds, got {deadline}")
        self._address, self._model, self._deadline = Address.of(endpoint, "endpoint"), model, deadline
        self._key = key.strip() if key else None
        self._client = ObliviousClient(relay, keys) if relay and keys else None

    @property
    def host(self) -> str:
        """Who reads the question: what a permission is for."""
        return self._address.authority

    @property
    def oblivious(self) -> bool:
        """Whether it is asked by a relay."""
        return self._client is not None

    def ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        permission: Permission,
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        schema: Mapping[str, Any] | None = None,
    ) -> CloudAnswer:
        """Ask once.

        Args:
            messages: In OpenAI's form; exactly those that were shown and permitted.
            permission: Made by `Consent.asked`; used up by this call whatever comes.
            max_new_tokens: The answer stops there at the latest.
            temperature: 0 takes the likeliest token.
            schema: JSON Schema that the endpoint is asked to keep to; what comes is not checked here.

        Raises:
            ConsentError: The permission is for something else, or used; nothing was sent.
            CloudUnreachableError: No whole answer before the deadline.
            CloudRefusedError: An error status or a redirect.
            CloudGarbledError: HTML, no JSON, no answer in it, or too much of it.
            ObliviousError: The way by relay and gateway fails.
        """
        shown_bytes = canonical(messages)
        permission.spend(self.host, shown_bytes)
        if len(shown_bytes) > MAX_MESSAGES_BYTES:
            raise CloudError(f"{len(shown_bytes)} bytes are too much for one question; {MAX_MESSAGES_BYTES} may leave")
        begun, deadline = time.monotonic(), Deadline(self._deadline)
        asked: dict[str, Any] = {
            "model": self._model, "messages": [dict(one) for one in messages],
            "max_tokens": max_new_tokens, "temperature": temperature,
        }  # fmt: skip
        if schema is not None:
            asked["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": dict(schema)},
            }
        status, content, traffic = self._sent(json.dumps(asked, ensure_ascii=False).encode(), deadline)
        if status != 200:
            raise self._refusal(status, content)
        return self._read(content, time.monotonic() - begun, traffic)

    def _sent(self, body: bytes, deadline: Deadline) -> tuple[int, bytes, Traffic | None]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        path = f"{self._address.path}/chat/completions"
        if self._client is None:
            reply = exchange(
                "POST", self._address, path, headers=headers, content=body, deadline=deadline, limit=MAX_REPLY_BYTES
            )
            return reply.status, reply.content, None
        request = Request(
            method="POST", scheme=self._address.scheme, authority=self._address.authority, path=path,
            headers=tuple(headers.items()), content=body,
        )  # fmt: skip
        response, traffic = self._client.ask(request, deadline)
        return response.status, response.content, traffic

    def _refusal(self, status: int, content: bytes) -> CloudRefusedError:
        if 300 <= status < 400:
            return CloudRefusedError(f"{self.host} redirects elsewhere; name the address itself", status=status)
        said = _said(content)
        words = f": {shown(said, secret=self._key)}" if said else ""
        return CloudRefusedError(f"{self.host} refuses with {status}{words}{HINTS.get(status, '')}", status=status)

    def _read(self, content: bytes, seconds: float, traffic: Traffic | None) -> CloudAnswer:
        if content.lstrip()[:1] == b"<":
            raise CloudGarbledError(f"{self.host} answers HTML where JSON is needed; such addresses usually end in /v1")
        try:
            found = json.loads(content)
            choice = found["choices"][0]
            text, finish = choice["message"]["content"], str(choice.get("finish_reason") or "stop")
            usage, model = found.get("usage") or {}, str(found.get("model") or self._model)
            tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as cause:
            raise CloudGarbledError(f"{self.host} answers {len(content)} bytes without an answer in them") from cause
        if not isinstance(text, str):
            raise CloudGarbledError(f"{self.host} answers without a text")
        prompt, answer = (one if isinstance(one, int) and one >= 0 else None for one in tokens)
        return CloudAnswer(
            text=text, finish=shown(finish), model=shown(model), prompt_tokens=prompt, answer_tokens=answer,
            seconds=seconds, oblivious=traffic is not None, traffic=traffic,
        )  # fmt: skip


def read_key(file: Path | None = None) -> str | None:
    """The endpoint's key: the first line of a file of its owner's, else LIMBECK_CLOUD_KEY, else None.

    Raises:
        CloudError: The file cannot be read, is empty, or can be read by others.
    """
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        if os.name == "posix" and stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise CloudError(f"others than its owner may read the key in {file}; chmod 600 it")
        with file.open(encoding="utf-8") as opened:
            key = opened.readline(8192).strip()
    except (OSError, UnicodeError) as cause:
        raise CloudError(f"the key in {file} cannot be read; its first line is the key") from cause
    if not key:
        raise CloudError(f"the first line of {file} is empty; it is where the key stands")
    return key


def _said(content: bytes) -> str:
    """What an endpoint says of its refusal; empty where it is not readable."""
    try:
        found = json.loads(content[: 64 * 1024])
    except (ValueError, RecursionError):
        return ""
    error = found.get("error", found) if isinstance(found, dict) else found
    said = error.get("message") or error.get("detail") or error.get("title") if isinstance(error, dict) else error
    return str(said or "")
