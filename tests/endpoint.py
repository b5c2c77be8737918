"""An endpoint in OpenAI's format on a loopback port, whose every answer a test may replace by something that happens.

It is a real HTTP server in a thread: what a client does with sockets, headers and half a body is done for real.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Act", "Service", "chat", "cut_short", "hang", "hang_up", "page", "serving", "status", "text", "told"]


@dataclass
class Service:
    """What was asked, and what to do with the next requests."""

    url: str = ""
    acts: list["Act"] = field(default_factory=list)
    """One for each of the next requests; afterwards it answers as `usual` does."""
    usual: "Act | None" = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Bodies, in order of arrival."""
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When each request arrived, monotonic seconds."""


Act = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def told(handler: BaseHTTPRequestHandler, code: int, payload: bytes, kind: str, **headers: str) -> None:
    """Send a whole response."""
    handler.send_response(code)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(payload)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(payload)


def text(code: int, content: str, kind: str = "application/json", **headers: str) -> Act:
    """Answer with this text."""
    return lambda handler, body: told(handler, code, content.encode(), kind, **headers)


def status(code: int, message: str = "busy", **headers: str) -> Act:
    """Refuse in OpenAI's way."""
    return text(code, json.dumps({"error": {"message": message, "code": "busy"}}), **headers)


def page(code: int = 200) -> Act:
    """Answer like a login page."""
    return text(code, "<!doctype html><title>Sign in</title>", "text/html")


def chat(answer: str | None = None, *, finish: str = "stop", usage: tuple[int, int] | None = (10, 5)) -> Act:
    """Answer in OpenAI's way; without a text, with the last message in capitals."""

    def act(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        content = body["messages"][-1]["content"].upper() if answer is None else answer
        message = {"role": "assistant", "content": content}
        reply: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
        if usage:
            reply["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
        told(handler, 200, json.dumps(reply).encode(), "application/json")

    return act


def hang(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """Say nothing until the client leaves."""
    handler.connection.settimeout(60)
    with suppress(OSError):
        handler.connection.recv(1)


def hang_up(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """Close the connection without a word."""
    handler.close_connection = True


def cut_short(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """Promise more bytes than come."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "4096")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"mess')


@contextmanager
def serving(*acts: Act) -> Iterator[Service]:
    """Serve on a free port until the block ends."""
    service = Service(acts=list(acts))
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.loads(content)
            with lock:
                service.times.append(time.monotonic())
                service.requests.append({"path": self.path, **body})
                service.headers.append(dict(self.headers.items()))
                act = service.acts.pop(0) if service.acts else service.usual or chat()
            act(self, body)

        def do_GET(self) -> None:  # What a client that follows a redirect would send.
            service.headers.append(dict(self.headers.items()))
            told(self, 200, b"{}", "application/json")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
