"""Pieces of an answer in, OpenAI's chat completion out: whole, or chunk by chunk."""

import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from sdk.device.server.answering import Ask, Call, End, Piece, Token
from sdk.device.server.told import (
    Chat,
    Choice,
    Chunk,
    ChunkCall,
    ChunkChoice,
    Delta,
    FinishReason,
    Logprobs,
    Message,
    TokenLogprob,
    ToldCall,
    ToldFunction,
    Top,
    Usage,
    UsageDetails,
)

__all__ = ["Reply"]

LEAST_LOGPROB = -9999.0  # JSON has no minus infinity; this is the number that OpenAI puts in its place.
REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "cancelled": "length", "tool": "tool_calls"}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The frame around one answer."""

    ask: Ask
    fingerprint: str
    """Engine and base."""
    id: str = field(default_factory=lambda: _id("chatcmpl-"))
    created: int = field(default_factory=lambda: int(time.time()))

    async def whole(self, pieces: AsyncGenerator[Piece | End]) -> Chat:
        """The answer at once."""
        text, tokens, end = "", list[Token](), None
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, End):
                    end = piece
                else:
                    text += piece.text
                    tokens += piece.tokens
        if end is None:
            raise RuntimeError("an answer ended without its last word")
        message = Message(content=None if end.calls else text, tool_calls=[_call(call) for call in end.calls] or None)
        choice = Choice(message=message, logprobs=self._logprobs(tokens), finish_reason=REASONS[end.finish])
        return Chat(
            id=self.id,
            created=self.created,
            model=self.ask.model,
            system_fingerprint=self.fingerprint,
            choices=[choice],
            usage=_usage(end),
        )

    async def chunks(self, pieces: AsyncGenerator[Piece | End], *, usage: bool) -> AsyncGenerator[Chunk]:
        """The answer as it comes; with `usage` one more chunk without a choice at the end."""
        async with aclosing(pieces):
            opening: Delta | None = Delta(role="assistant", content="")
            async for piece in pieces:
                if opening:  # Not before the first piece: until then the answer may still be refused.
                    yield self._chunk(opening)
                    opening = None
                if isinstance(piece, End):
                    for chunk in self._last(piece, usage=usage):
                        yield chunk
                elif piece.text or piece.tokens:
                    yield self._chunk(Delta(content=piece.text), tokens=piece.tokens)

    def _last(self, end: End, *, usage: bool) -> Iterator[Chunk]:
        if end.calls:
            yield self._chunk(Delta(tool_calls=[_chunk_call(number, call) for number, call in enumerate(end.calls)]))
        yield self._chunk(Delta(), reason=REASONS[end.finish])
        if usage:
            yield self._chunk(None, usage=_usage(end))

    def _chunk(
        self,
        delta: Delta | None,
        *,
        tokens: Sequence[Token] = (),
        reason: FinishReason | None = None,
        usage: Usage | None = None,
    ) -> Chunk:
        logprobs = self._logprobs(tokens) if tokens else None
        choices = [ChunkChoice(delta=delta, logprobs=logprobs, finish_reason=reason)] if delta else []
        return Chunk(
            id=self.id,
            created=self.created,
            model=self.ask.model,
            system_fingerprint=self.fingerprint,
            choices=choices,
            usage=usage,
        )

    def _logprobs(self, tokens: Sequence[Token]) -> Logprobs | None:
        return None if self.ask.top is None else Logprobs(content=[_logprob(token) for token in tokens])


def _logprob(token: Token) -> TokenLogprob:
    return TokenLogprob(
        **_top(token.content, token.log_probability).model_dump(),
        top_logprobs=[_top(content, value) for content, value in token.top],
    )


def _top(content: bytes, log_probability: float) -> Top:
    return Top(
        token=content.decode("utf-8", "replace"), logprob=max(log_probability, LEAST_LOGPROB), bytes=list(content)
    )


def _call(call: Call) -> ToldCall:
    return ToldCall(id=_id("call_"), function=ToldFunction(name=call.name, arguments=call.arguments))


def _chunk_call(number: int, call: Call) -> ChunkCall:
    return ChunkCall(index=number, **_call(call).model_dump())


def _id(kind: str) -> str:
    return kind + secrets.token_hex(12)


def _usage(end: End) -> Usage:
    return Usage(
        prompt_tokens=end.prompt_tokens,
        completion_tokens=end.answer_tokens,
        total_tokens=end.prompt_tokens + end.answer_tokens,
        prompt_tokens_details=UsageDetails(cached_tokens=end.cached_tokens),
    )
