"""A client's request in, what the one writer of answers is asked out; its pieces in, the server's pieces out."""

import json
from collections.abc import Callable, Iterator

from sdk.device.answers import records
from sdk.device.answers.writer import Asked
from sdk.device.server.answering import Ask, Call, End, Piece, Token
from sdk.device.server.conversation import conversation

__all__ = ["asked_of", "guided_by", "told_of"]

Content = Callable[[int], bytes]
"""The bytes of a token."""


def asked_of(ask: Ask) -> Asked:
    """What the writer is asked: an answer that ends where the context does, measured where probabilities are wanted."""
    named = [tool for tool in ask.tools if ask.tool_choice in ("auto", "required", tool.name)]
    return Asked(
        messages=conversation(ask),
        schema=ask.schema,
        tools={tool.name: tool.parameters for tool in named},
        must_call=ask.tool_choice != "auto",
        max_new_tokens=ask.most_tokens,
        cut=True,
        temperature=ask.temperature,
        seed=ask.seed,
        stop=ask.stop,
        top_logprobs=ask.top or 0,
        measured=ask.top is not None,
    )


def guided_by(ask: Ask) -> str:
    """The field of a request whose schema guides the answer."""
    return "tools" if ask.tools and (ask.tool_choice != "auto" or ask.schema is None) else "response_format"


def told_of(piece: records.Piece, ask: Ask, content: Content) -> Iterator[Piece | End]:
    """The same for a client: text and, where wanted, its tokens' probabilities; after the last piece the end."""
    tokens = [] if ask.top is None else [_token(step, content) for step in piece.steps]
    answer = piece.answer
    if answer is None or piece.text or tokens:
        yield Piece(text=piece.text, tokens=tokens)
    if answer is not None:
        yield End(
            finish=answer.finish,
            prompt_tokens=answer.usage.prompt_tokens,
            answer_tokens=answer.usage.answer_tokens,
            cached_tokens=answer.usage.cached_tokens,
            calls=[Call(name=call.name, arguments=json.dumps(call.arguments)) for call in answer.calls],
        )


def _token(step: records.Step, content: Content) -> Token:
    top = [(content(token), value) for token, value in step.top]
    return Token(content=content(step.token), log_probability=step.log_probability, top=top)
