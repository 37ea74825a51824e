"""One stream of ``Generate`` with a sidecar, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from mge_cache.v1 import cache_service_pb2 as pb

if TYPE_CHECKING:
    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub

EOF = grpc.aio.EOF  # type: ignore[attr-defined] # not in its stubs
MODEL = "claude-sonnet-5-5"
FOREVER: dict[str, Any] = {"batch_window_s": 60.0}
"""Settings with which only a full batch is sent."""
LONG_SYSTEM = '"' + "Answer as a careful engineer would. " * 200 + '"'
"""A system prompt of about 2,000 tokens, in JSON."""


def identity(prompt: str, **parameters: str) -> pb.PromptIdentity:
    """A prompt; ``parameters`` are JSON texts."""
    return pb.PromptIdentity(model=MODEL, prompt=prompt, parameters=parameters)


class Talk:
    """Sends requests and takes replies, one at a time."""

    def __init__(self, stub: CacheServiceAsyncStub) -> None:
        method: Any = stub.Generate  # its stub wants an iterator
        self._call: Any = method()

    async def start(self, request_id: str, prompt: str = "", **fields: Any) -> None:
        """Ask; ``fields`` are those of GenerateStart."""
        fields.setdefault("identity", identity(prompt or f"prompt {request_id}"))
        start = pb.GenerateStart(id=request_id, **fields)
        await self._call.write(pb.GenerateRequest(start=start))

    async def cancel(self, request_id: str) -> None:
        """Give a request up."""
        await self._call.write(pb.GenerateRequest(cancel=request_id))

    async def send(self, request: pb.GenerateRequest) -> None:
        """Send anything."""
        await self._call.write(request)

    async def reply(self) -> pb.GenerateResponse:
        """Take the next reply."""
        response = await self._call.read()
        assert response is not EOF, "the stream has ended"
        return response  # type: ignore[no-any-return]

    async def delta(self, request_id: str) -> str:
        """Take the next reply, which must be a part of a text."""
        response = await self.reply()
        assert (response.id, response.WhichOneof("event")) == (request_id, "delta"), response
        return response.delta

    async def end(self, request_id: str) -> pb.GenerateCompletion:
        """Take replies until a request is complete, which must be the next to end."""
        response = await self.reply()
        while response.WhichOneof("event") == "delta":
            response = await self.reply()
        assert (response.id, response.WhichOneof("event")) == (request_id, "completion"), response
        return response.completion

    async def ends(self, count: int) -> dict[str, pb.GenerateCompletion]:
        """Take replies until so many requests are complete."""
        result: dict[str, pb.GenerateCompletion] = {}
        while len(result) < count:
            response = await self.reply()
            assert response.WhichOneof("event") != "error", response
            if response.WhichOneof("event") == "completion":
                result[response.id] = response.completion
        return result

    async def error(self, request_id: str) -> pb.GenerateError:
        """Take replies until a request fails, which must be the next to end."""
        response = await self.reply()
        while response.WhichOneof("event") == "delta":
            response = await self.reply()
        assert (response.id, response.WhichOneof("event")) == (request_id, "error"), response
        return response.error

    async def finish(self) -> None:
        """Say that there are no more requests; the stream must end after the replies taken."""
        assert await self.rest() == []

    async def rest(self) -> list[pb.GenerateResponse]:
        """Say that there are no more requests, and return the replies until the stream ends."""
        await self._call.done_writing()
        replies: list[pb.GenerateResponse] = []
        while (response := await self._call.read()) is not EOF:
            replies.append(response)
        return replies

    def break_off(self) -> None:
        """Cancel the stream."""
        self._call.cancel()
