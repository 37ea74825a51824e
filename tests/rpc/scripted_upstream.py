"""An HTTP server that speaks Anthropic's Messages API, and whose every answer the test dictates.

The test takes the calls in the order in which they come, and lets each begin, say something, end,
be refused or break off. Nothing depends on time.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.rpc.scripted_batches import ScriptedBatches

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

TOKENS_IN = 11
TOKENS_OUT = 7
_PATIENCE_S = 30.0
"""A call that has not come by then never will."""


class _BrokenError(Exception):
    """The connection breaks off here."""


class Call:
    """One call under way."""

    def __init__(
        self,
        headers: dict[str, str],
        body: dict[str, Any],
        *,
        port: int,
        abort: Callable[[], None],
    ) -> None:
        self.headers = headers
        self.body = body
        self.port = port
        """The caller's end of the connection: equal for calls that share it."""
        self.gone = asyncio.Event()
        """Set when the caller has closed the connection before the end."""
        self.piece_bytes = 0
        """How large the pieces are in which events are sent; 0: each is one."""
        self._abort = abort
        self._block = 0
        self._response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._events: asyncio.Queue[bytes | _BrokenError | None] = asyncio.Queue()

    @property
    def prompt(self) -> str:
        """The text of the first message."""
        content: str = self.body["messages"][0]["content"]
        return content

    def begin(self, *, cache_read: int = 0, cache_write: int = 0) -> None:
        """Begin the answer."""
        usage = {
            "input_tokens": TOKENS_IN,
            "output_tokens": 1,
            "cache_read_input_tokens": cache_read,
            "cache_creation_input_tokens": cache_write,
        }
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self.body["model"],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        self._response.set_result(StreamingResponse(self._stream(), media_type="text/event-stream"))
        self.send("message_start", message=message)
        self.open_block({"type": "text", "text": ""})

    def open_block(self, content: dict[str, Any]) -> None:
        """Begin the next block of the answer."""
        self.send("content_block_start", index=self._block, content_block=content)

    def grow_block(self, delta: dict[str, Any]) -> None:
        """Go on with the block."""
        self.send("content_block_delta", index=self._block, delta=delta)

    def close_block(self) -> None:
        """End the block."""
        self.send("content_block_stop", index=self._block)
        self._block += 1

    def say(self, text: str) -> None:
        """Go on with the answer."""
        self.grow_block({"type": "text_delta", "text": text})

    def end(
        self,
        stop_reason: str = "end_turn",
        *,
        output_tokens: int = TOKENS_OUT,
        closed: bool = True,
    ) -> None:
        """End the answer, and the response unless ``closed`` is false."""
        self.close_block()
        self.sum_up(stop_reason, output_tokens=output_tokens)
        self.send("message_stop")
        if closed:
            self.close()

    def sum_up(self, stop_reason: str = "end_turn", *, output_tokens: int = TOKENS_OUT) -> None:
        """Say why the answer ends, and what it cost."""
        delta = {"stop_reason": stop_reason, "stop_sequence": None}
        self.send("message_delta", delta=delta, usage={"output_tokens": output_tokens})

    def close(self) -> None:
        """End the response in good order, whatever there was of an answer."""
        self._events.put_nowait(None)

    def answer(self, text: str, stop_reason: str = "end_turn") -> None:
        """Answer at once."""
        self.begin()
        self.say(text)
        self.end(stop_reason)

    def answer_whole(self, text: str) -> None:
        """Answer a call that wants no stream."""
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": self.body["model"],
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": TOKENS_IN, "output_tokens": TOKENS_OUT},
        }
        self._response.set_result(JSONResponse(message))

    def refuse(self, status: int, kind: str, **headers: str) -> None:
        """Answer with an error; ``retry_after`` is the header of that name."""
        detail = {"type": kind, "message": f"no: {self.body}"}
        body = {"type": "error", "error": detail, "request_id": "req_7"}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named["request-id"] = "req_7"
        self._response.set_result(JSONResponse(body, status_code=status, headers=named))

    def fail_amid(self, kind: str) -> None:
        """Send an error as an event of the stream."""
        self.send("error", error={"type": kind, "message": "no"})
        self.close()

    def cut(self) -> None:
        """Break off; before the answer begins, the connection closes without a response."""
        if self._response.done():
            self._events.put_nowait(_BrokenError())
        else:
            self._abort()
            self._response.set_result(Response())  # which nobody gets

    async def response(self) -> Response:
        """Wait for what the test dictates."""
        return await self._response

    def send(self, kind: str, **fields: object) -> None:
        """Send an event, in pieces of ``piece_bytes``."""
        self.send_bytes(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())

    def send_bytes(self, data: bytes) -> None:
        """Send what need not be an event."""
        size = self.piece_bytes or len(data)
        for start in range(0, len(data), size):
            self._events.put_nowait(data[start : start + size])

    async def _stream(self) -> AsyncIterator[bytes]:
        try:
            while (event := await self._events.get()) is not None:
                if isinstance(event, _BrokenError):
                    raise event
                yield event
        except asyncio.CancelledError:
            self.gone.set()
            raise


class ScriptedUpstream:
    """The server. ``calls`` counts all that have come."""

    def __init__(self) -> None:
        self.url = ""
        self.calls = 0
        self.connections = 0
        """How many there have been."""
        self._transports: dict[object, asyncio.Transport] = {}
        self.batches = ScriptedBatches()
        self._waiting: asyncio.Queue[Call] = asyncio.Queue()

    async def call(self) -> Call:
        """Take the next call."""
        async with asyncio.timeout(_PATIENCE_S):
            return await self._waiting.get()

    async def batch(self, size: int) -> dict[str, Call]:
        """Take so many calls, by their prompts: those of a batch come in any order."""
        calls = [await self.call() for _ in range(size)]
        return {each.prompt: each for each in calls}

    @property
    def waiting(self) -> int:
        """How many calls have come that the test has not taken."""
        return self._waiting.qsize()

    async def _messages(self, request: Request) -> Response:
        self.calls += 1
        port = request.client.port if request.client else 0
        abort = self._transports[request.scope["client"]].abort
        call = Call(dict(request.headers), json.loads(await request.body()), port=port, abort=abort)
        self._waiting.put_nowait(call)
        answering = asyncio.ensure_future(call.response())
        leaving = asyncio.ensure_future(request.receive())
        # Before the answer begins, only this tells that the caller has left.
        await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            call.gone.set()
        leaving.cancel()
        return await answering

    def watching(self, protocol: Any) -> type[Any]:
        """Return a protocol of uvicorn's that shows its connections."""
        upstream = self

        class Watching(protocol):  # type: ignore[misc] # whichever uvicorn has chosen
            def connection_made(self, transport: asyncio.Transport) -> None:
                upstream.connections += 1
                upstream._transports[transport.get_extra_info("peername")] = transport
                super().connection_made(transport)

        return Watching

    def app(self) -> Starlette:
        """Return the ASGI application."""
        messages = Route("/v1/messages", self._messages, methods=["POST"])
        return Starlette(routes=[messages, *self.batches.routes()])


@asynccontextmanager
async def scripted_upstream() -> AsyncIterator[ScriptedUpstream]:
    """Serve on a free port."""
    upstream = ScriptedUpstream()
    config = uvicorn.Config(
        upstream.app(), port=0, log_config=None, lifespan="off", access_log=False
    )
    server = uvicorn.Server(config)
    config.load()
    config.http_protocol_class = upstream.watching(config.http_protocol_class)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    host, port = server.servers[0].sockets[0].getsockname()
    upstream.url = f"http://{host}:{port}"
    ticking = asyncio.ensure_future(server.main_loop())
    try:
        yield upstream
    finally:
        server.should_exit = True
        server.force_exit = True
        await ticking
        await server.shutdown()
