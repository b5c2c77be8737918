"""An address in, a server on it out: opened or refused in one line, told its port, stopped when asked."""

import errno
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import uvicorn

from sdk.device.server.answering import Answering
from sdk.device.server.app import make_app
from sdk.device.server.connection import connection_of
from sdk.device.server.guard import is_loopback
from sdk.device.server.limits import Limits
from sdk.errors import ServeError

__all__ = ["LEAST_TOKEN", "address", "open_socket", "running", "serve"]

LEAST_TOKEN = 16  # Characters; fewer can be guessed at the rate that Limits grants.


def open_socket(host: str, port: int, *, token: str | None = None) -> socket.socket:
    """Listen on an address; nothing is answered yet.

    Args:
        host: A name or an address of this machine.
        port: 0 to 65535; 0 takes any that is free.
        token: What clients will have to show.

    Raises:
        ServeError: The address is in use or not of this machine, or open to others without a token, or the token is
            too short: nothing was opened.
    """
    if token is None and not is_loopback(host):
        raise ServeError(
            f"{host} may be reached by other machines; give a token with --token-file, or listen on 127.0.0.1"
        )
    if token is not None and (len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable()):
        raise ServeError(
            f"the token has {len(token)} characters; it needs at least {LEAST_TOKEN} of printable ASCII, such as those "
            "of `openssl rand -hex 32`"
        )
    if not 0 <= port <= 65535:
        raise ServeError(f"there is no port {port}; choose one from 0, which takes any, to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as cause:
        if cause.errno == errno.EADDRINUSE:
            raise ServeError(
                f"port {port} of {host} is in use; stop what uses it, or choose another with --port, 0 for any"
            ) from cause
        raise ServeError(f"cannot listen on {host}, port {port}: {cause.strerror or cause}") from cause


def address(listening: socket.socket) -> str:
    """What clients call their base URL, such as http://127.0.0.1:8080/v1."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def serve(
    answering: Answering,
    listening: socket.socket,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    origins: Collection[str] = (),
    stop: Callable[[], bool] = lambda: False,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer requests until asked to stop; then take no more, and end those under way within `stop_seconds`.

    Args:
        answering: Who answers.
        listening: From `open_socket`; it is closed at the end.
        limits: Sizes, rates and times; None takes the defaults.
        token: What clients must show.
        origins: Web pages that may ask, such as https://app.example.
        stop: Asked ten times a second.
        ready: Called once, when requests are taken.
    """
    limits = limits or Limits()
    app = make_app(answering, limits, token=token, origins=origins)
    config = uvicorn.Config(
        app,
        http=connection_of(limits),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level="error",  # Requests are not logged: what a person asks is nobody's business.
        access_log=False,
        proxy_headers=False,  # A header does not say who is asking.
        server_header=False,
        timeout_keep_alive=max(1, round(limits.idle_seconds)),
        timeout_graceful_shutdown=max(1, round(limits.stop_seconds + 2)),
        h11_max_incomplete_event_size=limits.header_bytes,
    )
    with listening:
        _Server(config, stop, ready, app.state.turns.stop).run(sockets=[listening])


class _Server(uvicorn.Server):
    """uvicorn, stopped by a question instead of a signal."""

    def __init__(
        self, config: uvicorn.Config, stop: Callable[[], bool], ready: Callable[[], None], stopping: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._stop, self._ready, self._stopping = stop, ready, stopping

    def capture_signals(self) -> Any:
        """Signals are for whoever calls `serve`."""
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        return self._stop() or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping()
        await super().shutdown(sockets)


@contextmanager
def running(answering: Answering, *, host: str = "127.0.0.1", port: int = 0, **options: Any) -> Iterator[str]:
    """A server in a thread for the time of a `with` block; gives its address. Arguments and errors as `serve`."""
    listening = open_socket(host, port, token=options.get("token"))
    url, up, down = address(listening), threading.Event(), threading.Event()
    arguments = {"stop": down.is_set, "ready": up.set, **options}
    thread = threading.Thread(target=serve, args=(answering, listening), kwargs=arguments, name="limbeck-serve")
    thread.start()
    try:
        while not up.wait(0.05):
            if not thread.is_alive():
                raise ServeError(f"the server on {url} did not start; its log says why")
        yield url
    finally:
        down.set()
        thread.join()
