"""An assistant in, its routes in OpenAI's format out (ASGI), and an OpenAPI document that says what they do."""

import time
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing, asynccontextmanager
from typing import Any, NoReturn

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPBearer

from sdk import __version__
from sdk.device.server.answering import Answering
from sdk.device.server.asked import ChatRequest, ask_of
from sdk.device.server.chat import Reply
from sdk.device.server.guard import Guard, Receive, Scope, Send
from sdk.device.server.limits import Limits
from sdk.device.server.refusal import ErrorBody, Refusal, refusal_of, unfit
from sdk.device.server.told import Chat, Chunk, Health, ModelCard, ModelList
from sdk.device.server.turns import Turns, unless_gone
from sdk.errors import SdkError

__all__ = ["make_app"]

WORDS = {
    400: "The request is malformed, or asks for what this server does not do.",
    401: "The token is missing or wrong.",
    403: "The request comes from a web page, or is not for this machine.",
    404: "There is no such model.",
    408: "The body arrived too slowly.",
    413: "The body is too large.",
    429: "Too many requests a minute; Retry-After says when to come back.",
    500: "The server failed at this request.",
    503: "Too many requests wait, or the server stops; Retry-After says when to come back.",
}
EVENTS = {"schema": {"type": "string", "description": "Events `data: CHUNK`, the last one `data: [DONE]`."}}
PATHS = "/v1/chat/completions, /v1/models, /health and /openapi.json"


def make_app(
    answering: Answering, limits: Limits | None = None, *, token: str | None = None, origins: Collection[str] = ()
) -> FastAPI:
    """The routes over an assistant.

    Args:
        answering: Who answers.
        limits: Sizes, rates and times; None takes the defaults.
        token: What clients must show; None answers programs of this machine alone.
        origins: Web pages that may ask, such as https://app.example.
    """
    limits = limits or Limits()
    turns = Turns(answering, limits)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncGenerator[None]:
        yield
        await turns.close()

    app = FastAPI(
        title="limbeck",
        version=__version__,
        summary="A small language model on this device, in OpenAI's format.",
        lifespan=life,
        docs_url=None,  # Its page would load scripts from the network.
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.turns = turns
    _add_routes(app, answering, limits, turns, guarded=token is not None)
    _add_refusals(app)
    app.add_middleware(Guard, limits=limits, token=token, origins=origins)
    if origins:  # Outermost, since a browser asks without the token whether it may ask.
        app.add_middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"])
    return app


def _add_routes(app: FastAPI, answering: Answering, limits: Limits, turns: Turns, *, guarded: bool) -> None:
    began = int(time.time())
    shown = [Depends(HTTPBearer(auto_error=False))] if guarded else []  # Only for the document; Guard has checked it.

    def cards() -> list[ModelCard]:
        return [ModelCard(id=each.id, created=began, description=each.words) for each in answering.models()]

    @app.get("/health", responses=_told(400, 403, 408, 413))
    async def health() -> Health:
        """Whether the server is up; asks for no token."""
        return Health()

    @app.get("/v1/models", dependencies=shown, responses=_told(400, 401, 403, 408, 413, 429))
    async def models() -> ModelList:
        """The models there are now: the usual one, the bare base, and one for each adapter of the home."""
        return ModelList(data=cards())

    @app.get("/v1/models/{model}", dependencies=shown, responses=_told(400, 401, 403, 404, 408, 413, 429))
    async def model(model: str) -> ModelCard:
        """One model."""
        return {card.id: card for card in cards()}.get(model) or _unknown(model, answering)

    @app.post(
        "/v1/chat/completions",
        dependencies=shown,
        response_model=Chat,
        responses=_told(*WORDS) | {200: {"content": {"text/event-stream": EVENTS}}},
    )
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Continue a conversation; with `stream` in pieces, as they are written."""
        ask = ask_of(body, limits)
        if ask.model not in [each.id for each in answering.models()]:
            _unknown(ask.model, answering)
        reply = Reply(ask=ask, fingerprint=answering.fingerprint)
        if not body.stream:
            done = await unless_gone(_gone(request), reply.whole(turns.answer(ask)))
            return Response(done.model_dump_json(), media_type="application/json")
        usage = bool(body.stream_options and body.stream_options.include_usage)
        chunks = reply.chunks(turns.answer(ask), usage=usage)
        # A refusal needs its status, so the headers wait for the first piece.
        first = await unless_gone(_gone(request), anext(chunks))
        return EventStream(_events(first, chunks))


class EventStream(StreamingResponse):
    """Server-sent events, whose source is closed when the client is gone."""

    media_type = "text/event-stream"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if isinstance(self.body_iterator, AsyncGenerator):
                await self.body_iterator.aclose()


async def _events(first: Chunk, chunks: AsyncGenerator[Chunk]) -> AsyncGenerator[str]:
    """Chunks as events; what fails on the way is told as an event, since the status is sent already."""
    async with aclosing(chunks):
        yield _event(first.model_dump_json(exclude_none=True))
        try:
            async for chunk in chunks:
                yield _event(chunk.model_dump_json(exclude_none=True))
        except Exception as cause:
            yield _event(refusal_of(cause).content().decode())
            return
    yield _event("[DONE]")


def _event(data: str) -> str:
    return f"data: {data}\n\n"


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _unknown(model: str, answering: Answering) -> NoReturn:
    known = ", ".join(each.id for each in answering.models())
    raise Refusal(404, f"there is no model {model!r:.140}; there are {known}", code="model_not_found", param="model")


def _told(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Refusals of a route, for the document; `default` keeps FastAPI from adding one that it never sends."""
    told: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": WORDS[status]} for status in statuses
    }
    return told | {"default": {"model": ErrorBody, "description": "Any other refusal."}}


def _add_refusals(app: FastAPI) -> None:
    async def refuse(_: Request, cause: Exception) -> Response:
        refusal = unfit(cause.errors(), cause.body) if isinstance(cause, RequestValidationError) else refusal_of(cause)
        return JSONResponse(refusal.body(), refusal.status, headers=refusal.headers)

    def saying(words: str) -> Any:
        async def say(request: Request, cause: Any) -> Response:
            said = words.format(method=request.method, path=request.url.path)
            refusal = Refusal(cause.status_code, said, headers=cause.headers)
            return JSONResponse(refusal.body(), refusal.status, headers=refusal.headers)

        return say

    for kind in (RequestValidationError, Refusal, SdkError, Exception):
        app.add_exception_handler(kind, refuse)
    app.add_exception_handler(400, saying("the body cannot be read as JSON; send one JSON object"))
    app.add_exception_handler(404, saying(f"there is no {{path}} here; there are {PATHS}"))
    app.add_exception_handler(405, saying("{path} does not take {method}; see /openapi.json"))
