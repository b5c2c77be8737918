"""A request in, an answer that a test wrote out, at the pace that it wants: whoever answers, without a model.

It stands where the point is the server itself: queues, limits, broken clients. What a model says is tested with one.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sdk.device.server.answering import Ask, Call, End, Model, Piece, Token

__all__ = ["Scripted", "body"]


@dataclass
class Scripted:
    """Says the same to everybody, and counts."""

    words: Sequence[str] = ("the ", "cat ", "sat")
    seconds: float = 0.0
    """Between two words."""
    error: Exception | None = None
    """Raised after `words`."""
    calls: Sequence[Call] = ()
    go: threading.Event | None = None
    """Waited for before each answer's first word."""
    fingerprint: str = "scripted"
    asks: list[Ask] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    cancelled: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def models(self) -> list[Model]:
        return [Model(id="limbeck", words="a script"), Model(id="limbeck:work", words="the same")]

    def pieces(self, ask: Ask, cancelled: Callable[[], bool]) -> Iterator[Piece | End]:
        with self.lock:
            self.asks.append(ask)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            while self.go is not None and not self.go.wait(0.01) and not cancelled():
                pass
            yield from self._say(ask, cancelled)
        finally:
            with self.lock:
                self.under_way -= 1

    def _say(self, ask: Ask, cancelled: Callable[[], bool]) -> Iterator[Piece | End]:
        said = 0
        for word in self.words:
            if cancelled():
                self.cancelled += 1
                break
            time.sleep(self.seconds)
            said += 1
            token = Token(content=word.encode(), log_probability=-0.5, top=[(b"\xff", float("-inf"))])
            yield Piece(text=word, tokens=[token])
        if self.error is not None:
            raise self.error
        finish = "tool" if self.calls else "stop" if said == len(self.words) else "cancelled"
        yield End(finish=finish, prompt_tokens=7, answer_tokens=said, calls=self.calls)  # type: ignore[arg-type]


def body(**more: object) -> dict[str, object]:
    """A request as small as it can be."""
    return {"model": "limbeck", "messages": [{"role": "user", "content": "the cat"}], **more}
