"""A staged bundle in, a verdict out: its examination is started in a process of its own, watched, and judged.

A bundle that is signed may still be bad: it may not load here, compute nonsense, hang, or eat the memory. None of that
may happen in the process of the person's assistant. What the process says is a measurement; what is enough is signed.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from personalize.errors import HomeBusyError, PersonalizeError
from privacy.errors import PrivacyError
from sdk.bundle import Bundle
from sdk.catalogue import Health
from sdk.errors import SdkError, UnhealthyError, UpdateBusyError

__all__ = ["CARRY_SECONDS", "Ask", "Limits", "Progress", "ask", "carried_out", "judge"]

CARRY_SECONDS = 3_600  # To carry adapters over: minutes on a laptop, and no signed limit knows how many a person has.
LOOK_SECONDS = 0.05  # Between two looks at the clock and the memory.
Progress = Callable[[str, int, int], None]
Ask = Callable[..., dict[str, Any]]
"""The signature of `ask`."""
PROGRAM = (sys.executable, "-m", "sdk.device.health")
FIT_PROGRAM = (sys.executable, "-m", "sdk.device.fitting")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the process may take."""

    seconds: float
    """Of wall clock."""
    memory_mb: int
    """Resident, in 10⁶ bytes."""


def ask(
    task: str,
    old: Bundle | None,
    new: Bundle,
    *,
    limits: Limits,
    home: Path | None = None,
    slot: Path | None = None,
    extra: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Let a process examine a bundle, carry adapters over to it, or see whether an extra fits it.

    Args:
        task: `examine`, `adapters` or `fit`.
        old: The active bundle; None where there is none yet.
        new: The staged one; for `fit` the active one.
        limits: Past them the process is killed.
        home: For `adapters` and `fit`: whose.
        slot: For `adapters`: where the copies go.
        extra: For `fit`: folder of the extra.
        progress: Told what the process tells.

    Raises:
        UnhealthyError: It refused, died, hung or took too much; the text says which.
        UpdateBusyError: A night is running in the home.
    """
    places = {"old": old and old.folder, "new": new.folder, "home": home, "slot": slot, "extra": extra}
    order = {"task": task, **{name: str(place) if place else None for name, place in places.items()}}
    program = FIT_PROGRAM if task == "fit" else PROGRAM
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as child:
        try:
            return _followed(child, order, limits, progress)
        finally:
            _end(child)


def carried_out(work: Callable[[dict[str, Any], Progress], dict[str, Any]]) -> None:
    """The process's side of `ask`: one order on stdin; on stdout JSON lines of progress, then `found` or why not.

    Args:
        work: Takes the order and whom to tell of progress, returns what is found.
    """

    def tell(what: str, done: int, total: int) -> None:
        print(json.dumps({"told": [what, done, total]}), flush=True)

    order = json.loads(sys.stdin.read())
    try:
        print(json.dumps({"found": work(order, tell)}), flush=True)
    except HomeBusyError as busy:
        print(json.dumps({"busy": str(busy)}), flush=True)
    except (SdkError, PersonalizeError, PrivacyError) as refused:
        print(json.dumps({"refused": str(refused)}), flush=True)


def judge(found: dict[str, Any], health: Health) -> None:
    """Hold what was measured against what is signed.

    Raises:
        UnhealthyError: It is not enough.
    """
    ratio, agreement = found["loss_ratio_ppm"], found["agreement_per10k"]
    if ratio is not None and ratio > health.loss_ratio_ppm:
        raise UnhealthyError(
            f"its loss on public probes is {ratio / 1e6:.3f} times that of the active one, at most "
            f"{health.loss_ratio_ppm / 1e6:.3f} times is allowed"
        )
    if agreement is not None and agreement < health.agreement_per10k:
        raise UnhealthyError(
            f"it agrees with the active one on {agreement / 100:.2f} % of fixed places, at least "
            f"{health.agreement_per10k / 100:.2f} % is asked for"
        )


def _followed(
    child: "subprocess.Popen[bytes]", order: dict[str, Any], limits: Limits, progress: Progress
) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    lines: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_read, args=(child.stdout, lines), daemon=True).start()
    try:
        child.stdin.write(json.dumps(order).encode())
        child.stdin.close()
    except BrokenPipeError:
        pass  # It died at once; how, is seen below.
    ends = time.monotonic() + limits.seconds
    watched = psutil.Process(child.pid)
    while True:
        try:
            line = lines.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            line = b""
        if line is None:
            code = child.wait()
            raise UnhealthyError(f"its examination ended with {_ending(code)} and without a word")
        if line and (found := _word(line, progress)) is not None:
            return found
        if time.monotonic() > ends:
            raise UnhealthyError(f"its examination took over {limits.seconds:g} seconds")
        if (used := _memory(watched)) > limits.memory_mb * 1e6:
            raise UnhealthyError(f"its examination took {used / 1e6:.0f} MB, at most {limits.memory_mb} MB are allowed")


def _read(stream: Any, lines: "queue.Queue[bytes | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _word(line: bytes, progress: Progress) -> dict[str, Any] | None:
    try:
        said = json.loads(line)
    except ValueError:
        return None  # A library's own print.
    match said:
        case {"told": [str(what), int(done), int(total)]}:
            progress(what, done, total)
        case {"refused": str(why)}:
            raise UnhealthyError(why)
        case {"busy": str(why)}:
            raise UpdateBusyError(why)
        case {"found": dict(found)}:
            return found
    return None


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"code {code}"


def _end(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
