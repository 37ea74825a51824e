"""A caller's stream of ``Generate`` without gRPC, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING

from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache_server.conversation import Conversation
from mge_cache_server.deferred_tickets import Tickets
from mge_cache_server.generation import Strategy
from mge_cache_server.wire import Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.unit.batching import Batching

LIMITS = Limits(
    answer_max_bytes=1 << 20,
    prompt_max_bytes=1 << 20,
    tags_max=8,
    ttl_max_s=1000.0,
    wait_max_s=30.0,
    lease_ttl_s=60.0,
)
TERMINAL = frozenset({"completion", "error"})


def start(request_id: str, prompt: str, *, timeout_s: int = 0) -> pb.GenerateRequest:
    """Ask; in the namespace of the tests."""
    identity = pb.PromptIdentity(namespace="ns", model="m", prompt=prompt)
    message = pb.GenerateStart(id=request_id, identity=identity)
    if timeout_s:
        message.timeout.FromSeconds(timeout_s)
    return pb.GenerateRequest(start=message)


class Stream:
    """One stream. Its caller reads unless ``may_read`` is cleared."""

    def __init__(self, batching: Batching) -> None:
        cache = batching.cache
        tickets = Tickets(cache.store.deferred, cache.prompts, poll_s=1.0, failed=lambda *_: None)
        self.conversation = Conversation(
            batching.batcher, tickets, LIMITS, set(), strategy=Strategy.FAN_OUT
        )
        self.replies: list[pb.GenerateResponse] = []
        self.taken = 0
        """How many requests the sidecar has taken from the wire."""
        self.may_read = asyncio.Event()
        self.may_read.set()
        self._requests: asyncio.Queue[pb.GenerateRequest | Exception | None] = asyncio.Queue()
        self.reading = asyncio.ensure_future(self._read())

    def send(self, *requests: pb.GenerateRequest) -> None:
        for request in requests:
            self._requests.put_nowait(request)

    def cancel(self, request_id: str) -> None:
        self.send(pb.GenerateRequest(cancel=request_id))

    def half_close(self) -> None:
        """There are no more requests."""
        self._requests.put_nowait(None)

    def break_requests(self, error: Exception) -> None:
        """Let the stream of requests fail."""
        self._requests.put_nowait(error)

    async def abort(self) -> None:
        """Cancel the stream, as gRPC does when its caller dies."""
        self.reading.cancel()
        await asyncio.wait([self.reading])

    @property
    def ends(self) -> Counter[str]:
        """How many terminal replies there were, by id."""
        return Counter(each.id for each in self.replies if each.WhichOneof("event") in TERMINAL)

    def errors(self) -> list[tuple[str, int]]:
        """Ids and codes of the errors so far."""
        return [
            (each.id, each.error.code)
            for each in self.replies
            if each.WhichOneof("event") == "error"
        ]

    async def _incoming(self) -> AsyncIterator[pb.GenerateRequest]:
        while (request := await self._requests.get()) is not None:
            if isinstance(request, Exception):
                raise request
            self.taken += 1
            yield request

    async def _read(self) -> None:
        async with aclosing(self.conversation.replies(self._incoming())) as replies:
            while True:
                try:
                    reply = await anext(replies)
                except StopAsyncIteration:
                    return
                # As gRPC asks for the next only when it has written this one.
                await self.may_read.wait()
                self.replies.append(reply)
