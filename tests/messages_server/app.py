"""The HTTP side: ``POST /v1/messages``, and ``GET /served`` for what was served and billed."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from tests.messages_server.answers import (
    PRICES_USD_PER_MILLION,
    Reply,
    bill_usd,
    reply_to,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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
class Order:
    """A valid request."""

    model: str
    max_tokens: int
    texts: list[str]
    stream: bool


class _RejectedError(Exception):
    """A request that the API would refuse."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class MessagesServer:
    """The handlers. One event loop."""

    def __init__(self, *, delay: float) -> None:
        self._delay = delay
        self._served = Served()
        self._numbers = itertools.count(1)

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/served", self._report, methods=["GET"]),
            ]
        )

    async def _messages(self, request: Request) -> Response:
        number = next(self._numbers)
        headers = {"request-id": f"req_local_{number:08d}"}
        try:
            order = _parse(request.headers, await request.body())
        except _RejectedError as error:
            detail = {"type": error.kind, "message": str(error)}
            body = {"type": "error", "error": detail, "request_id": headers["request-id"]}
            return JSONResponse(body, status_code=error.status, headers=headers)
        reply = reply_to(
            order.texts, model=order.model, max_tokens=order.max_tokens, delay=self._delay
        )
        identifier = f"msg_local_{number:08d}"
        if order.stream:
            events = self._stream(order, reply, identifier)
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        await asyncio.sleep(reply.duration_s)
        self._count(order, reply)
        message = _message(order, reply, identifier)
        return JSONResponse(message, headers=headers)

    async def _stream(self, order: Order, reply: Reply, identifier: str) -> AsyncIterator[bytes]:
        start = _message(order, reply, identifier)
        stop_reason = start["stop_reason"]
        start |= {"content": [], "stop_reason": None, "usage": _usage(reply, output_tokens=1)}
        await asyncio.sleep(reply.first_token_s)
        yield _event("message_start", message=start)
        yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for token in reply.tokens:
            await asyncio.sleep(reply.token_s)
            yield _event(
                "content_block_delta", index=0, delta={"type": "text_delta", "text": token}
            )
        yield _event("content_block_stop", index=0)
        self._count(order, reply)
        yield _event(
            "message_delta",
            delta={"stop_reason": stop_reason, "stop_sequence": None},
            usage={"output_tokens": reply.output_tokens},
        )
        yield _event("message_stop")

    async def _report(self, _: Request) -> Response:
        return JSONResponse(asdict(self._served))

    def _count(self, order: Order, reply: Reply) -> None:
        self._served.calls += 1
        self._served.input_tokens += reply.input_tokens
        self._served.output_tokens += reply.output_tokens
        self._served.billed_usd += bill_usd(order.model, reply.input_tokens, reply.output_tokens)


def _parse(headers: Headers, raw: bytes) -> Order:
    if not (headers.get("x-api-key") or headers.get("authorization", "").startswith("Bearer ")):
        raise _RejectedError(401, "authentication_error", "an API key is required")
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise _RejectedError(400, "invalid_request_error", "the body is not JSON") from error
    if not isinstance(body, dict):
        raise _RejectedError(400, "invalid_request_error", "the body is not an object")
    model, max_tokens, messages = body.get("model"), body.get("max_tokens"), body.get("messages")
    if not isinstance(model, str) or model not in PRICES_USD_PER_MILLION:
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
    return Order(model, max_tokens, texts, stream=body.get("stream") is True)


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


def _message(order: Order, reply: Reply, identifier: str) -> dict[str, Any]:
    return {
        "id": identifier,
        "type": "message",
        "role": "assistant",
        "model": order.model,
        "content": [{"type": "text", "text": reply.text}],
        "stop_reason": "max_tokens" if reply.cut else "end_turn",
        "stop_sequence": None,
        "usage": _usage(reply, output_tokens=reply.output_tokens),
    }


def _event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()
