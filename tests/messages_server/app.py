"""The HTTP side: ``POST /v1/messages``, and ``GET /served`` for what was served and billed.

The same under the paths of Bedrock and Vertex, which name the model in the path.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from tests.messages_server import aws
from tests.messages_server.answers import (
    PRICES_USD_PER_MILLION,
    USUAL,
    Pace,
    Reply,
    bill_usd,
    reply_to,
    stamp,
)
from tests.messages_server.scenes import Scene, scene_of
from tests.messages_server.streaming import events_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.datastructures import Headers
    from starlette.requests import Request
    from starlette.responses import Response


@dataclass(slots=True)
class Served:
    """What was served since the start. Calls count once their answer is complete."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    billed_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came in."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Order:
    """A valid request. ``aws``: its stream is to be an AWS event stream."""

    model: str
    max_tokens: int
    texts: list[str]
    stream: bool
    aws: bool


class _RejectedError(Exception):
    """A request that the API would refuse."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class _CutError(Exception):
    """The connection is to be cut."""


_KINDS = {400: "invalid_request_error", 429: "rate_limit_error", 529: "overloaded_error"}
_GATE_POLL_S = 0.005


class MessagesServer:
    """The handlers. One event loop; ``gate`` and ``seen`` are for any thread."""

    def __init__(self, *, delay: float, pace: Pace = USUAL) -> None:
        self._delay = delay
        self._pace = pace
        self._served = Served()
        self._numbers = itertools.count(1)
        self._failed_before: set[str] = set()
        self.gate = threading.Event()
        self.seen: deque[Seen] = deque(maxlen=1000)

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/model/{model}/{verb}", self._messages, methods=["POST"]),
                Route(
                    "/projects/{p}/locations/{l}/publishers/anthropic/models/{model}",
                    self._messages,
                    methods=["POST"],
                ),
                Route("/served", self._report, methods=["GET"]),
            ]
        )

    async def _messages(self, request: Request) -> Response:
        number = next(self._numbers)
        headers = {"request-id": f"req_local_{number:08d}"}
        raw = await request.body()
        self.seen.append(Seen(request.url.path, dict(request.headers), raw))
        try:
            order = _parse(request.headers, raw, request.path_params)
            scene = self._scene(order)
        except _RejectedError as error:
            detail = {"type": error.kind, "message": str(error)}
            body = {"type": "error", "error": detail, "request_id": headers["request-id"]}
            return JSONResponse(body, status_code=error.status, headers=headers)
        reply = reply_to(
            order.texts,
            model=order.model,
            max_tokens=order.max_tokens,
            delay=self._delay,
            pace=self._pace,
        )
        message = _message(order, reply, f"msg_local_{number:08d}", scene)
        if order.stream:
            events = self._stream(order, reply, message, scene)
            kind = "application/vnd.amazon.eventstream" if order.aws else "text/event-stream"
            return StreamingResponse(events, media_type=kind, headers=headers)
        if scene is not None and scene.gated:
            await self._gate_open()
        await asyncio.sleep(reply.duration_s)
        self._count(order, reply)
        return JSONResponse(message, headers=headers)

    def _scene(self, order: Order) -> Scene | None:
        try:
            scene = scene_of(order.texts[-1])
        except KeyError as error:
            raise _RejectedError(400, "invalid_request_error", f"no scene {error}") from error
        if scene is None or scene.status == 200:
            return scene
        known = order.texts[-1] in self._failed_before
        self._failed_before.add(order.texts[-1])
        if scene.fails_first and known:
            return scene
        raise _RejectedError(scene.status, _KINDS.get(scene.status, "api_error"), "as asked for")

    async def _stream(
        self, order: Order, reply: Reply, message: dict[str, Any], scene: Scene | None
    ) -> AsyncIterator[bytes]:
        write = aws.message if order.aws else _sse
        await asyncio.sleep(reply.first_token_s)
        deltas = 0
        for event in _token_events(message, reply) if scene is None else events_of(message):
            if event["type"] == "content_block_delta":
                await asyncio.sleep(reply.token_s)
                deltas += 1
                if self._pace.stamped:
                    event["delta"] = {"type": "text_delta", "text": stamp()}
            if event["type"] == "message_delta":
                self._count(order, reply)
            yield write(json.dumps(event))
            if scene is not None and deltas == 1:
                if scene.gated:
                    await self._gate_open()
                if scene.breaks == "cut":
                    raise _CutError
                if scene.breaks == "error":
                    detail = {"type": "overloaded_error", "message": "as asked for"}
                    yield write(json.dumps({"type": "error", "error": detail}))
                    return

    async def _gate_open(self) -> None:
        while not self.gate.is_set():  # noqa: ASYNC110 - any thread may open it
            await asyncio.sleep(_GATE_POLL_S)

    async def _report(self, _: Request) -> Response:
        return JSONResponse(asdict(self._served))

    def _count(self, order: Order, reply: Reply) -> None:
        self._served.calls += 1
        self._served.input_tokens += reply.input_tokens
        self._served.output_tokens += reply.output_tokens
        self._served.billed_usd += bill_usd(order.model, reply.input_tokens, reply.output_tokens)


def _parse(headers: Headers, raw: bytes, path: dict[str, str]) -> Order:
    if not (headers.get("x-api-key") or headers.get("authorization")):
        raise _RejectedError(401, "authentication_error", "an API key is required")
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise _RejectedError(400, "invalid_request_error", "the body is not JSON") from error
    if not isinstance(body, dict):
        raise _RejectedError(400, "invalid_request_error", "the body is not an object")
    model, max_tokens, messages = body.get("model"), body.get("max_tokens"), body.get("messages")
    model, _, verb = path.get("model", str(model)).partition(":")
    verb = path.get("verb", verb)
    if model not in PRICES_USD_PER_MILLION:
        raise _RejectedError(404, "not_found_error", f"model: {model}")
    if not isinstance(max_tokens, int) or max_tokens < 1:
        raise _RejectedError(400, "invalid_request_error", "max_tokens: must be at least 1")
    if not isinstance(messages, list) or not messages:
        raise _RejectedError(400, "invalid_request_error", "messages: at least one is required")
    system = [_text_of(body["system"])] if "system" in body else []
    texts = system + [
        _text_of(message.get("content") if isinstance(message, dict) else None)
        for message in messages
    ]
    is_aws = verb == "invoke-with-response-stream"
    return Order(model, max_tokens, texts, stream=is_aws or body.get("stream") is True, aws=is_aws)


def _text_of(content: object) -> str:
    """Return the text of a message: a string, or blocks of which the ones of text count."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        blocks = [block for block in content if isinstance(block, dict)]
        return "\n".join(str(block.get("text", "")) for block in blocks)
    raise _RejectedError(400, "invalid_request_error", "content: text or blocks are required")


def _usage(reply: Reply, *, output_tokens: int) -> dict[str, int]:
    return {
        "input_tokens": reply.input_tokens,
        "output_tokens": output_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def _message(order: Order, reply: Reply, identifier: str, scene: Scene | None) -> dict[str, Any]:
    message = {
        "id": identifier,
        "type": "message",
        "role": "assistant",
        "model": order.model,
        "content": [{"type": "text", "text": reply.text, "citations": None}],
        "stop_reason": "max_tokens" if reply.cut else "end_turn",
        "stop_sequence": None,
        "usage": _usage(reply, output_tokens=reply.output_tokens),
    }
    if scene is not None:
        stop = {"stop_reason": scene.stop_reason, "stop_sequence": scene.stop_sequence}
        message |= {"content": scene.content, **stop, **scene.extra}
    return message


def _token_events(message: dict[str, Any], reply: Reply) -> Iterator[dict[str, Any]]:
    """Yield the events of a text, a token each."""
    for event in events_of(
        {**message, "content": [{"type": "text", "text": "", "citations": None}]}
    ):
        if event["type"] == "content_block_stop":
            for token in reply.tokens:
                delta = {"type": "text_delta", "text": token}
                yield {"type": "content_block_delta", "index": 0, "delta": delta}
        yield event


def _sse(event: str) -> bytes:
    return f"event: {json.loads(event)['type']}\ndata: {event}\n\n".encode()
