"""Requests in, their answers one turn at a time out: a bounded queue before a few threads, each answer cancellable.

Rules:
    1. A turn is held from the first token to the last, by the thread that writes; not by the client that reads.
    2. Whoever stops listening sets the answer's flag, and the thread ends within one token.
    3. What waits is bounded in number and in time; the rest is refused at once.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from sdk.device.server.answering import Answering, Ask, End, Piece
from sdk.device.server.limits import Limits
from sdk.device.server.refusal import Refusal, refusal_of

__all__ = ["Turns", "unless_gone"]

log = logging.getLogger(__name__)

Came = Piece | End | Refusal | None
"""What a thread hands over; None is its last word."""
Result = TypeVar("Result")


class Turns:
    """The threads that write answers, and the queue before them. Used in one event loop."""

    def __init__(self, answering: Answering, limits: Limits) -> None:
        """Nobody waits yet.

        Args:
            answering: Who answers.
            limits: How many at once, how many may wait, how long.
        """
        self._answering, self._limits = answering, limits
        self._threads = ThreadPoolExecutor(limits.at_once, thread_name_prefix="limbeck-answer")
        self._free = asyncio.Semaphore(limits.at_once)
        self._waiting = 0
        self._stop_at: float | None = None

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece | End]:
        """Wait for a turn, then give the answer's pieces as they come; closing the iterator cancels the answer.

        Raises:
            Refusal: Too many wait, or it took too long to get a turn, or the server stops, or it cannot be answered.
        """
        await self._take_turn()
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Came]()
        ends_at, unwanted = time.monotonic() + self._limits.answer_seconds, False

        def late() -> bool:
            return time.monotonic() > min(ends_at, self._stop_at or ends_at)

        def write() -> None:  # In a thread.
            try:
                for piece in self._answering.pieces(ask, lambda: unwanted or late()):
                    loop.call_soon_threadsafe(pieces.put_nowait, piece)
            except Exception as cause:  # Told to the client by whoever reads.
                refusal = refusal_of(cause)
                if refusal.status == 500:
                    log.error("an answer failed", exc_info=cause)
                loop.call_soon_threadsafe(pieces.put_nowait, refusal)
            finally:
                loop.call_soon_threadsafe(pieces.put_nowait, None)
                loop.call_soon_threadsafe(self._free.release)

        self._threads.submit(write)
        try:
            while (came := await pieces.get()) is not None:
                if isinstance(came, Refusal):
                    raise came
                yield came
        finally:
            unwanted = True

    def stop(self) -> None:
        """Take no more requests, and end what is under way within `stop_seconds`."""
        self._stop_at = self._stop_at or time.monotonic() + self._limits.stop_seconds

    async def close(self) -> None:
        """Wait until no thread writes any more."""
        self.stop()
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)

    async def _take_turn(self) -> None:
        self._check_open()
        if self._free.locked() and self._waiting >= self._limits.waiting:
            raise Refusal(503, f"{self._waiting} requests wait already; try again", code="busy", retry_seconds=1)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._limits.wait_seconds):
                await self._free.acquire()
        except TimeoutError as cause:
            seconds = f"{self._limits.wait_seconds:g}"
            raise Refusal(503, f"no turn came within {seconds} s; try again", code="busy", retry_seconds=5) from cause
        finally:
            self._waiting -= 1
        try:
            self._check_open()
        except Refusal:
            self._free.release()
            raise

    def _check_open(self) -> None:
        if self._stop_at is not None:
            raise Refusal(503, "the server is stopping; try again", code="stopping", retry_seconds=5)


async def unless_gone(gone: Coroutine[Any, Any, None], work: Awaitable[Result]) -> Result:
    """Do `work`, but cancel it when the client goes away.

    Args:
        gone: Ends when the client is gone.
        work: What is done for it.

    Raises:
        Refusal: The client went away first.
    """
    working, watching = asyncio.ensure_future(work), asyncio.create_task(gone)
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Refusal(400, "the client went away", code="gone")
        return working.result()
    finally:
        for each in (working, watching):
            each.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await each
