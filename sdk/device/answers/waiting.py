"""Work that blocks in, what an event loop can wait for out: a thread for each piece of work, none of a shared pool.

Rules: whoever stops waiting stops this work and no other, by the `left` that it was given. An answer can take minutes
and a process has few pool threads, which other parts of an app need.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["Left", "each", "in_thread", "or_left"]

Made = TypeVar("Made")
Left = Callable[[], bool]
"""Whether nobody waits any more."""


async def in_thread(work: Callable[[Left], Made]) -> Made:
    """What `work` returns or raises; a task that is cancelled meanwhile is cancelled at once, and `left` says so."""
    loop, left = asyncio.get_running_loop(), threading.Event()
    made: asyncio.Future[Made] = loop.create_future()

    def settle(how: Callable[[Any], None], what: Any) -> None:
        if not made.done():
            how(what)

    def run() -> None:
        try:
            how: tuple[Callable[[Any], None], Any] = made.set_result, work(left.is_set)
        except BaseException as wrong:  # Raised where it is waited for.
            how = made.set_exception, wrong
        with suppress(RuntimeError):  # The loop may be closed by now: nobody waits.
            loop.call_soon_threadsafe(settle, *how)

    threading.Thread(target=run, daemon=True).start()
    try:
        return await made
    finally:
        left.set()


async def each(parts: Callable[[Left], Iterator[Made]]) -> AsyncIterator[Made]:
    """The parts as they come; leaving the loop, or cancelling the task, sets `left`."""
    loop, left = asyncio.get_running_loop(), threading.Event()
    told: asyncio.Queue[tuple[Made] | BaseException | None] = asyncio.Queue()

    def tell(what: tuple[Made] | BaseException | None) -> None:
        with suppress(RuntimeError):  # As above.
            loop.call_soon_threadsafe(told.put_nowait, what)

    def run() -> None:
        end: BaseException | None = None
        try:
            for part in parts(left.is_set):
                tell((part,))
        except BaseException as wrong:  # Raised where it is read.
            end = wrong
        tell(end)

    threading.Thread(target=run, daemon=True).start()
    try:
        while isinstance(what := await told.get(), tuple):
            yield what[0]
        if what is not None:
            raise what
    finally:
        left.set()


def or_left(how: Mapping[str, Any], left: Left) -> dict[str, Any]:
    """Arguments of an answer that is also cancelled once nobody waits for it."""
    cancelled: Left = how.get("cancelled", lambda: False)
    return {**how, "cancelled": lambda: left() or cancelled()}
