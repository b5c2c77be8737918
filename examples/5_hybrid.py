"""One easy and one hard question: the device answers first, a larger model by relay and gateway where it is not sure.

Everything runs on this machine: the gateway and the relay (nginx where it is installed, else a small one) as processes
of their own, and in place of a large model a server that speaks OpenAI's format and knows one answer. How sure is sure
enough is what the base's own calibration says (`limbeck build router`).

    python examples/5_hybrid.py              what the shipped calibration makes of both
    python examples/5_hybrid.py --unsure     as if the device were sure of nothing
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from personalize import Home
from sdk import Assistant
from sdk.confidence import FEATURES, Calibration, Head
from sdk.device.cloud import Cloud
from sdk.device.handoff.consent import Consent, Preview
from sdk.device.hybrid import HandOff
from sdk.device.oblivious import key_file
from sdk.device.oblivious.key_source import KeySource
from sdk.device.oblivious.relay import nginx_configuration
from sdk.device.router import Router
from sdk.tasks import prompt

EASY = prompt("politer", "Send me the file now.")  # A device task, asked in the words that the student was trained on.
HARD = "Ana Keller (ana@keller.example, +1 415 555 2671) asks which heron nests at Lake Constance. Answer her."


@contextmanager
def large_model() -> Iterator[str]:
    """What stands for a large model."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = asked["messages"][-1]["content"]
            words = "Could you please send me the file?"
            if "heron" in question:
                words = f"Dear {question.split('(')[0].strip()}, the grey heron nests there."
            message = {"role": "assistant", "content": words}
            content = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


@contextmanager
def started(*command: str) -> Iterator[str]:
    """`limbeck oblivious …` as a process; gives its address."""
    line = [sys.executable, "-m", "sdk.cli.app", "oblivious", *command, "--port", "0", "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        try:
            yield json.loads(process.stdout.readline())["address"]
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def relay(folder: Path, gateway: str) -> Iterator[str]:
    """nginx as a relay, or a small one."""
    base = gateway.partition("/.well-known")[0]
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        with started("relay", "--gateway", base) as address:
            yield f"{address}/"
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    server = nginx_configuration(base, listen=f"127.0.0.1:{port}")
    main = "daemon off; master_process off; pid nginx.pid; error_log stderr crit; events {}"
    (folder / "nginx.conf").write_text(f"{main} http {{ {places}\n{server} }}\n")
    command = [nginx, "-e", "stderr", "-p", os.fspath(folder), "-c", os.fspath(folder / "nginx.conf")]
    with subprocess.Popen(command) as process:
        for _ in range(500):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.send_signal(signal.SIGTERM)


def never_sure(base_digest: str) -> Router:
    """A router that keeps no answer."""
    head = Head(features=FEATURES[:1], lows=(0.0,), highs=(9.0,), weights=(0.0,), intercept=0.0)
    return Router(Calibration(base_digest=base_digest, risk=0.05, threshold=1.0, head=head, report={}))


def permitted(preview: Preview) -> bool:
    """In an app a person reads this and taps; here the answer is yes."""
    print(f"  would leave: {preview.text()}")
    return True


def main() -> None:
    """Lay the way, ask both questions, say what left."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--unsure", action="store_true", help="as if the device were sure of nothing")
    unsure = parser.parse_args().unsure
    with ExitStack() as up:
        folder = Path(up.enter_context(tempfile.TemporaryDirectory()))
        keys = key_file.rotate(folder / "gateway.keys", overlap=timedelta(days=1), now=datetime.now(UTC))
        model = up.enter_context(large_model())
        gateway = up.enter_context(started("gateway", "--target", model, "--keys", os.fspath(folder / "gateway.keys")))
        address = up.enter_context(relay(folder, gateway))
        source = KeySource(f"{address}keys", pins=[keys[0].key.configuration.pin])
        cloud = Cloud(model, model="large", relay=address, keys=source, deadline=20)

        home = Home.open(folder / "home")
        assistant = Assistant.open(home.path)
        assistant.remember(prompt="Who asks about birds?", answer="Ana does.", contact="Ana Keller")
        router = never_sure(assistant.bundle.base_digest) if unsure else Router.of(assistant.bundle, home.path)
        hand_off = HandOff(router, Consent.open(home), cloud, names=assistant.contacts())
        for question in (EASY, HARD):
            print(f"> {question}")
            session = assistant.session()
            answer = session.answer(question, max_new_tokens=24)
            made = hand_off.in_session(session, answer=answer, ask=permitted, max_new_tokens=24)
            print(f"  {made.route}: {made.text}\n  why: {made.reason}")
            if made.cloud and made.cloud.traffic:
                traffic = made.cloud.traffic
                print(f"  sealed: {traffic.sent_bytes} bytes there, {traffic.received_bytes} back")


if __name__ == "__main__":
    main()
