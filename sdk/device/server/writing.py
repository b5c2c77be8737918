"""Scores of the next token in, the answer's text and probabilities out, token by token."""

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sdk.device.answers.grammar import Vocabulary
from sdk.device.answers.writer import may_begin
from sdk.device.engines.protocol import Track
from sdk.device.server.answering import Ask, Call, End, Finish, Piece, Token
from sdk.device.server.grammar import Guide

__all__ = ["Writing"]

PART = 64  # Tokens of a prompt between two looks at whether anybody still wants the answer.

Scores = NDArray[np.float32]


@dataclass
class Writing:
    """One answer under way on one track."""

    ask: Ask
    track: Track
    vocabulary: Vocabulary
    stop_tokens: frozenset[int]
    """Ids that end an answer."""
    guide: Guide | None
    cancelled: Callable[[], bool]
    held: str = field(default="", init=False)
    """Text that may still turn out to begin a stop, or all of a tool's call."""
    written: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Nothing is written yet."""
        self._random = np.random.default_rng(None if self.ask.seed is None else self.ask.seed % 2**64)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._is_call = False

    def run(self, prompt: list[int], most_tokens: int) -> Iterator[Piece | End]:
        """Write; arguments and result as Answering.pieces.

        Args:
            prompt: All tokens before the answer; what of them the track has already is not taken again.
            most_tokens: The answer stops here at the latest.
        """
        cached = len(self.track.tokens)
        finish: Finish = "cancelled"
        scores = self._read(prompt[cached:])
        while scores is not None:
            token, piece, ends = self._next(scores)
            if ends:
                finish = "stop"
                break
            self.written += 1
            self.held += self._decode(self.vocabulary.content(token))
            stopped = self._cut_at_stop()
            yield Piece(text=self._free(), tokens=[] if piece is None else [piece])
            if stopped or (self.guide and self.guide.done):
                finish = "stop"
                break
            if self.written == most_tokens:
                finish = "length"
                break
            scores = self._read([token])
        yield from self._last(finish, prompt_tokens=len(prompt), cached=cached)

    def _read(self, tokens: list[int]) -> Scores | None:
        """Scores after more tokens, shape (vocab,); None if nobody wants them any more."""
        scores = None
        for start in range(0, len(tokens), PART):
            if self.cancelled():
                return None
            scores = self.track.extend(tokens[start : start + PART])[-1]
        return scores

    def _next(self, scores: Scores) -> tuple[int, Token | None, bool]:
        """The next token, what to tell of it, and whether it ends the answer."""
        allowed = np.where(self.guide.allowed(len(scores)), scores, -np.inf) if self.guide else scores
        token = self._choose(allowed)
        ends = token in self.stop_tokens
        if self.guide and not ends:
            self.guide.take(token)
        return token, None if self.ask.top is None or ends else self._told(token, scores), ends

    def _choose(self, scores: Scores) -> int:
        if self.ask.temperature == 0:
            return int(scores.argmax())
        sharpened = scores.astype(np.float64) / self.ask.temperature
        chances = np.exp(sharpened - sharpened.max())  # (vocab,)
        return int(self._random.choice(len(chances), p=chances / chances.sum()))

    def _told(self, token: int, scores: Scores) -> Token:
        wide = scores.astype(np.float64)
        logs = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())  # (vocab,)
        likeliest = np.argsort(-logs, kind="stable")[: self.ask.top or 0]
        return Token(
            content=self.vocabulary.content(token),
            log_probability=float(logs[token]),
            top=[(self.vocabulary.content(int(each)), float(logs[each])) for each in likeliest],
        )

    def _cut_at_stop(self) -> bool:
        found = [place for stop in self.ask.stop if (place := self.held.find(stop)) >= 0]
        if found:
            self.held = self.held[: min(found)]
        return bool(found)

    def _free(self) -> str:
        """Text that can be told now: no tool's call, and no beginning of a stop."""
        self._is_call = self._is_call or (bool(self.ask.tools) and self.written == 1 and self.held[:1] == "{")
        if self._is_call:
            return ""
        waits = may_begin(self.held, self.ask.stop)
        free, self.held = self.held[: len(self.held) - waits], self.held[len(self.held) - waits :]
        return free

    def _last(self, finish: Finish, *, prompt_tokens: int, cached: int) -> Iterator[Piece | End]:
        calls: list[Call] = []
        if self._is_call and finish == "stop":
            called = json.loads(self.held)
            calls, finish = [Call(name=called["name"], arguments=json.dumps(called["arguments"]))], "tool"
        elif self.held:
            yield Piece(text=self.held)
        yield End(
            finish=finish, prompt_tokens=prompt_tokens, answer_tokens=self.written, cached_tokens=cached, calls=calls
        )
