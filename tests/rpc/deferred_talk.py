"""What tests of the strategy ``deferred`` say on a stream, and see of a sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.scripted_batches import TOKENS_IN, TOKENS_OUT
from tests.rpc.talk import Talk, identity

if TYPE_CHECKING:
    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub

COST_USD = (TOKENS_IN * 2 + TOKENS_OUT * 10) / 1e6 / 2
AT_ONCE: dict[str, Any] = {"deferred_window_s": 0.0, "deferred_poll_s": 0.05}
DEFERRED = pb.STRATEGY_DEFERRED
NOT_FOUND, DEADLINE, UNAVAILABLE, INVALID = 5, 4, 14, 3


class DeferredTalk(Talk):
    """Asks deferred questions, and fetches."""

    async def defer(self, request_id: str, prompt: str, **fields: Any) -> None:
        await self.start(request_id, prompt, strategy=DEFERRED, **fields)

    async def fetch(self, request_id: str, *, wait_s: int = 0) -> pb.GenerateResponse:
        fetch = pb.GenerateFetch(id=request_id)
        fetch.timeout.seconds = wait_s
        await self.send(pb.GenerateRequest(fetch=fetch))
        reply = await self.reply()
        assert reply.id == request_id
        return reply

    async def fetch_error(self, request_id: str) -> int:
        reply = await self.fetch(request_id)
        assert reply.WhichOneof("event") == "error", reply
        return reply.error.code


async def under_way(stub: CacheServiceAsyncStub) -> int:
    stats = await stub.Stats(pb.StatsRequest())
    return stats.batcher.deferred_requests


async def peeked(stub: CacheServiceAsyncStub, prompt: str) -> bytes:
    request = pb.GetPromptRequest(identity=identity(prompt), peek=True)
    return (await stub.GetPrompt(request)).hit.answer
