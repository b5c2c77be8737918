"""The way to the cloud as real processes on loopback: gateway, nginx or a small relay, and recorders between them.

A recorder is a TCP proxy that keeps every byte and every peer: what somebody who sits on that line could see.
"""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sdk.device.oblivious.relay import nginx_configuration

__all__ = ["CLIENT", "Recorder", "gateway_process", "nginx_relay", "recorded", "small_relay"]

CLIENT = "127.0.0.77"  # All of 127.0.0.0/8 is this machine on Linux: so a client has an address that can be looked for.
STARTED_SECONDS = 60.0  # A busy machine takes its time to start Python.


@dataclass
class Recorder:
    """One line, as seen by who sits on it."""

    url: str = ""
    peers: list[str] = field(default_factory=list)
    """Addresses that connected."""
    there: list[bytes] = field(default_factory=list)
    """What each connection sent."""
    back: list[bytes] = field(default_factory=list)
    """What came back."""

    @property
    def everything(self) -> bytes:
        """All bytes of both ways."""
        return b"".join(self.there + self.back)

    @property
    def questions(self) -> list[bytes]:
        """What was sent with POST."""
        return [one for one in self.there if one.startswith(b"POST")]

    def since(self, connections: int) -> "Recorder":
        """The same without so many first connections."""
        return Recorder(
            url=self.url, peers=self.peers[connections:], there=self.there[connections:], back=self.back[connections:]
        )


@contextmanager
def recorded(url: str, *, source: str = "127.0.0.1") -> Iterator[Recorder]:
    """A line to `url` that is recorded; connections go on from the address `source`."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    target = (parts.hostname, parts.port)
    found = Recorder()
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        found.url = f"http://127.0.0.1:{listening.getsockname()[1]}{parts.path}"

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connected, peer = listening.accept()
                    found.peers.append(peer[0])
                    place = len(found.there)
                    found.there.append(b"")
                    found.back.append(b"")
                    arguments = (found, place, connected, target, source)
                    threading.Thread(target=_carry, args=arguments, daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def _carry(found: Recorder, place: int, near: socket.socket, target: tuple[str, int], source: str) -> None:
    with near, suppress(OSError), socket.create_connection(target, timeout=20, source_address=(source, 0)) as far:
        other = {near: far, far: near}
        while True:
            for ready in select.select([near, far], [], [], 20)[0]:
                part = ready.recv(65536)
                if not part:
                    return
                kept = found.there if ready is near else found.back
                kept[place] += part
                other[ready].sendall(part)


@contextmanager
def gateway_process(keys: Path, target: str, *more: str) -> Iterator[str]:
    """`limbeck oblivious gateway`; gives its address, path included."""
    command = ("gateway", "--target", target, "--keys", str(keys), *more)
    with _limbeck(command) as facts:
        yield facts["address"]


@contextmanager
def small_relay(gateway: str) -> Iterator[str]:
    """`limbeck oblivious relay` before a gateway's address."""
    parts = urlsplit(gateway)
    with _limbeck(("relay", "--gateway", f"http://{parts.netloc}")) as facts:
        yield facts["address"]


@contextmanager
def _limbeck(command: Sequence[str]) -> Iterator[dict[str, str]]:
    line = [sys.executable, "-m", "sdk.cli.app", "oblivious", *command, "--port", "0", "--json"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process, ExitStack() as ending:
        ending.callback(_end, process)
        assert process.stdout
        first = process.stdout.readline()
        assert first, process.stderr.read() if process.stderr else ""
        yield json.loads(first)


def _end(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()


@contextmanager
def nginx_relay(folder: Path, gateway: str, *, wrong: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
    """nginx with the configuration that we print; `wrong` are replacements that a careless operator might make."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    gateway_parts = urlsplit(gateway)
    for _ in range(5):  # Somebody else may take the port between looking for it and using it.
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = nginx_configuration(f"http://{gateway_parts.netloc}", listen=f"127.0.0.1:{port}")
        for before, after in wrong:
            assert before in server
            server = server.replace(before, after)
        process = subprocess.Popen(
            [program, "-e", "stderr", "-p", os.fspath(folder), "-c", os.fspath(_configured(folder, server))],
            stderr=subprocess.PIPE,
            text=True,
        )
        with process, ExitStack() as ending:
            ending.callback(_end, process)
            if _listens(process, port):
                yield f"http://127.0.0.1:{port}/"
                return
    raise AssertionError(f"nginx did not start: {process.stderr.read() if process.stderr else ''}")


def _configured(folder: Path, server: str) -> Path:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    main = "daemon off; master_process off; pid nginx.pid; error_log stderr crit; events {}\n"
    file = folder / "nginx.conf"
    file.write_text(f"{main}http {{\n{places}{server}}}\n")
    return file


def _listens(process: "subprocess.Popen[str]", port: int) -> bool:
    until = time.monotonic() + STARTED_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        time.sleep(0.02)
    return False
