"""A sidecar whose Generate a test scripts, behind a real gRPC server.

Requests are collected, and answered by the test itself or by ``answer``; the rest is the double's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.duration_pb2 import Duration

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.sidecar_double import SidecarDouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.rpc.sidecar_double import Context

    Answer = Callable[["Talk", pb.GenerateRequest], Awaitable[None]]


class Talk:
    """One open stream, as the sidecar sees it."""

    def __init__(self, context: Context) -> None:
        self.requests: list[pb.GenerateRequest] = []
        self.half_closed = False
        self.over = False
        self.ending: asyncio.Future[tuple[grpc.StatusCode, str]] = asyncio.Future()
        self._context = context
        self._writes = asyncio.Lock()  # gRPC takes one write at a time

    @property
    def ids(self) -> list[str]:
        """Of the requests for an answer, in the order in which they came."""
        return [each.start.id or each.fetch.id for each in self.requests if not each.cancel]

    @property
    def cancelled(self) -> list[str]:
        return [each.cancel for each in self.requests if each.cancel]

    async def say(self, response: pb.GenerateResponse) -> None:
        async with self._writes:
            await self._context.write(response)

    async def delta(self, request_id: str, text: str) -> None:
        await self.say(pb.GenerateResponse(id=request_id, delta=text))

    async def restart(self, request_id: str) -> None:
        await self.say(pb.GenerateResponse(id=request_id, restart=pb.GenerateRestart()))

    async def complete(self, request_id: str, text: str, **fields: Any) -> None:
        completion = completion_of(text, **fields)
        await self.say(pb.GenerateResponse(id=request_id, completion=completion))

    async def error(
        self, request_id: str, code: int, message: str = "", retry_after_s: int | None = None
    ) -> None:
        error = pb.GenerateError(code=code, message=message)
        if retry_after_s is not None:
            error.retry_after.CopyFrom(Duration(seconds=retry_after_s))
        await self.say(pb.GenerateResponse(id=request_id, error=error))

    def end(self, code: grpc.StatusCode = grpc.StatusCode.OK, details: str = "") -> None:
        """End the stream."""
        self.ending.set_result((code, details))


class GenerateDouble(SidecarDouble):
    """Remembers every stream. Everything runs in one event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.talks: list[Talk] = []
        self.answer: Answer | None = None
        """Answers each request, in a task of its own."""

    @property
    def talk(self) -> Talk:
        """The one stream that there has been."""
        (talk,) = self.talks
        return talk

    @property
    def ids(self) -> list[str]:
        """Of all requests for an answer, on whatever stream."""
        return [request_id for talk in self.talks for request_id in talk.ids]

    @property
    def cancelled(self) -> list[str]:
        return [request_id for talk in self.talks for request_id in talk.cancelled]

    async def Generate(  # type: ignore[override]  # noqa: N802 - the stub knows no writers
        self, requests: AsyncIterator[pb.GenerateRequest], context: Context
    ) -> None:
        talk = Talk(context)
        self.talks.append(talk)
        await self._misbehave("Generate", context)
        answers: set[asyncio.Task[None]] = set()
        reading = asyncio.create_task(self._read(talk, requests, answers))
        try:
            await asyncio.wait((reading, talk.ending), return_when=asyncio.FIRST_COMPLETED)
            if talk.half_closed and answers:
                await asyncio.wait(answers)
            if talk.ending.done() and talk.ending.result()[0] is not grpc.StatusCode.OK:
                await context.abort(*talk.ending.result())
        finally:
            talk.over = True
            for task in (reading, *answers):
                task.cancel()

    async def _read(
        self,
        talk: Talk,
        requests: AsyncIterator[pb.GenerateRequest],
        answers: set[asyncio.Task[None]],
    ) -> None:
        async for request in requests:
            talk.requests.append(request)
            if self.answer is not None and not request.cancel:
                task: asyncio.Task[None] = asyncio.ensure_future(self.answer(talk, request))
                answers.add(task)
        talk.half_closed = True


def completion_of(text: str, **fields: Any) -> pb.GenerateCompletion:
    usual: dict[str, Any] = {
        "stop_reason": "end_turn",
        "source": pb.ANSWER_SOURCE_UPSTREAM,
        "usage": pb.Usage(input_tokens=7, output_tokens=3),
    }
    return pb.GenerateCompletion(text=text, **{**usual, **fields})


async def echo(talk: Talk, request: pb.GenerateRequest) -> None:
    """Answer with the prompt, a delta for each word."""
    words = request.start.identity.prompt.split(" ")
    for number, word in enumerate(words):
        await talk.delta(request.start.id, word if not number else f" {word}")
        await asyncio.sleep(0)
    await talk.complete(request.start.id, request.start.identity.prompt)
