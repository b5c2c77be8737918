"""A source of random bytes in, a finding out: can its draws be repeated by a seed, in a second engine, or in a fork?"""

from __future__ import annotations

import os
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from privacy.audit.findings import Finding

__all__ = ["secrecy"]

_ANSWER_SECONDS = 20  # A forked child that takes longer than this hangs.


def secrecy(leg: str, claim: str, draw: Callable[[], bytes]) -> Finding:
    """Draw under equal seeds, in two engines, and on both sides of a fork: no two draws may be equal."""
    ways: dict[str, Callable[[], tuple[bytes, bytes]]] = {
        "equal seeds": lambda: (_seeded(draw), _seeded(draw)),
        "two engines": lambda: (draw(), draw()),
    }
    if hasattr(os, "fork"):
        ways["a fork"] = lambda: _forked(draw)
    repeated = []
    for way, both in ways.items():
        one, other = both()
        if not one or not other or one == other:
            repeated.append(way)
    measured = f"draws differ under {', '.join(ways)}" if not repeated else f"the same draw under {', '.join(repeated)}"
    return Finding(leg=leg, claim=claim, passed=not repeated, measured=measured)


def _seeded(draw: Callable[[], bytes]) -> bytes:
    with _own_seeds():
        torch.manual_seed(1)
        np.random.seed(1)  # What a careless engine would use.
        random.seed(1)
        return draw()


@contextmanager
def _own_seeds() -> Iterator[None]:
    """Put the generators of the process back as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _forked(draw: Callable[[], bytes]) -> tuple[bytes, bytes]:
    """Draw in a child that shares all memory up to here, and in this process."""
    receiver, sender = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # The child draws and ends; it takes no lock of a thread.
        child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_ANSWER_SECONDS)
            with os.fdopen(sender, "wb") as pipe:
                pipe.write(draw())
        finally:
            os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as pipe:
        theirs = pipe.read()
    os.waitpid(child, 0)
    return theirs, draw()
