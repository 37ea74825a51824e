"""A sidecar in memory, behind a real gRPC server, that can be told to misbehave.

It keeps the contract's promises on look-ups, leases and waiting, and nothing else of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import grpc

from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache.v1.cache_service_pb2_grpc import (
    CacheServiceServicer,
    add_CacheServiceServicer_to_server,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Context = grpc.aio.ServicerContext[object, object]

TICK = 1_700_000_000_000_000


class SidecarDouble(CacheServiceServicer):
    """Remembers what it was sent. Everything runs in one event loop."""

    def __init__(self) -> None:
        self.gets: list[pb.GetPromptRequest] = []
        self.sets: list[pb.SetPromptRequest] = []
        self.queries: list[pb.QueryRAGRequest] = []
        self.results: list[pb.StoreRAGRequest] = []
        self.holds: list[pb.HoldLeaseRequest] = []
        self.invalidations: list[pb.InvalidateRequest] = []
        self.questions = 0
        """How often it was asked whether it is there (gRPC's health, "Check")."""
        self.open_holds = 0
        self.waiting = 0
        self.hangs: set[str] = set()
        self.fails: dict[str, tuple[grpc.StatusCode, str]] = {}
        self.degraded = False
        self.entries: dict[bytes, pb.SetPromptRequest] = {}
        self.retrieved: dict[bytes, pb.StoreRAGRequest] = {}
        self.leases: dict[bytes, bytes] = {}
        self._changed = asyncio.Condition()
        self._granted = 0
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str) -> str:
        """Listen on host:port (0: any free port) or unix:path; returns what to connect to."""
        # Without this, a second server could share a port that a stopped one has not yet let go of.
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_CacheServiceServicer_to_server(self, self._server)
        check = grpc.unary_unary_rpc_method_handler(self._check)
        health = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})
        self._server.add_generic_rpc_handlers((health,))
        port = self._server.add_insecure_port(address)
        await self._server.start()
        return address if address.startswith("unix:") else f"127.0.0.1:{port}"

    async def stop(self) -> None:
        """Stop at once: calls in flight fail."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def give_up(self, key: bytes) -> None:
        """Hand a lease on, as if its holder had died."""
        async with self._changed:
            self.leases.pop(key, None)
            self._changed.notify_all()

    async def GetPrompt(  # noqa: N802 - the contract's name
        self, request: pb.GetPromptRequest, context: Context
    ) -> pb.GetPromptResponse:
        self.gets.append(request)
        await self._misbehave("GetPrompt", context)
        if self.degraded:
            return pb.GetPromptResponse(miss=pb.PromptMiss(degraded=True))
        async with self._changed:
            waited = not request.peek and await self._wait(request.identity.key, request)
            return self._found(request, waited=waited)

    async def SetPrompt(  # noqa: N802
        self, request: pb.SetPromptRequest, context: Context
    ) -> pb.SetPromptResponse:
        self.sets.append(request)
        await self._misbehave("SetPrompt", context)
        key = request.identity.key
        async with self._changed:
            self.entries[key] = request
            self.leases.pop(key, None)
            self._changed.notify_all()
        response = pb.SetPromptResponse(status=pb.SET_STATUS_STORED, cost_usd=request.cost_usd)
        response.ttl.FromSeconds(request.ttl.seconds or 86400)
        return response

    async def QueryRAG(  # noqa: N802
        self, request: pb.QueryRAGRequest, context: Context
    ) -> pb.QueryRAGResponse:
        self.queries.append(request)
        await self._misbehave("QueryRAG", context)
        if self.degraded:
            return pb.QueryRAGResponse(miss=pb.RAGMiss(degraded=True))
        key = rag_key(request.identity)
        async with self._changed:
            waited = await self._wait(key, request)
            result = self.retrieved.get(key)
            if result is None:
                miss = pb.RAGMiss(in_progress=key in self.leases)
                self._grant(key, request, miss)
                return pb.QueryRAGResponse(miss=miss)
            return pb.QueryRAGResponse(hit=_rag_hit(request, result, waited=waited))

    async def StoreRAG(  # noqa: N802
        self, request: pb.StoreRAGRequest, context: Context
    ) -> pb.StoreRAGResponse:
        self.results.append(request)
        await self._misbehave("StoreRAG", context)
        key = rag_key(request.identity)
        async with self._changed:
            self.retrieved[key] = request
            self.leases.pop(key, None)
            self._changed.notify_all()
        response = pb.StoreRAGResponse(status=pb.SET_STATUS_STORED, cost_usd=request.cost_usd)
        response.ttl.FromSeconds(request.ttl.seconds or 3600)
        return response

    async def HoldLease(  # noqa: N802
        self, request: pb.HoldLeaseRequest, context: Context
    ) -> AsyncIterator[pb.HoldLeaseResponse]:
        self.holds.append(request)
        await self._misbehave("HoldLease", context)
        keys = [key for key, lease in self.leases.items() if lease == request.lease]
        self.open_holds += 1
        try:
            yield pb.HoldLeaseResponse(state=pb.LEASE_STATE_HELD)
            async with self._changed:
                await self._changed.wait_for(
                    lambda: request.lease not in self.leases.values(),
                )
            yield pb.HoldLeaseResponse(state=pb.LEASE_STATE_FULFILLED)
        finally:
            self.open_holds -= 1
            for key in keys:
                if self.leases.get(key) == request.lease:
                    await self.give_up(key)

    async def Invalidate(  # noqa: N802
        self, request: pb.InvalidateRequest, context: Context
    ) -> pb.InvalidateResponse:
        self.invalidations.append(request)
        await self._misbehave("Invalidate", context)
        return pb.InvalidateResponse(tick=TICK)

    async def Stats(  # noqa: N802
        self, request: pb.StatsRequest, context: Context
    ) -> pb.StatsResponse:
        await self._misbehave("Stats", context)
        layer = pb.LayerStats(cache_layer="llm", total_hits=3, errors_by_operation={"lookup": 2})
        layer.spent_usd, layer.saved_usd = 3.0, 1.0
        layer.computed_seconds, layer.saved_seconds = 60.0, 40.0
        return pb.StatsResponse(
            layers=[layer],
            combined_hit_rate=0.75,
            l1=pb.L1Stats(bytes=5),
            store=pb.StoreStats(kind="memory", available=True),
            rag_index=pb.RAGIndexStats(
                partitions=1, rows=2, bytes=3, max_bytes=4, rows_left_out=5, kind="local"
            ),
            batcher=pb.BatcherStats(
                batches=4,
                requests=10,
                mean_size=2.5,
                batches_by_strategy={"merge": 3, "fan_out": 1, "deferred": 0},
                asked_alone=1,
                rejected=2,
                queued=3,
                queue_max=100,
                upstream_calls={"ok": 5, "rate_limited": 1},
                upstream_in_flight=6,
                upstream_limit=8,
                upstream_breaker_open=True,
                batches_by_outcome={"ok": 4},
                mean_wait_seconds=0.25,
                mean_first_delta_seconds=0.5,
                mean_upstream_seconds=1.5,
                models={"m": pb.ModelUse(usage=pb.Usage(output_tokens=7), cost_usd=0.1)},
                deferred_batches=2,
                deferred_requests=9,
            ),
            unpriced_models=[request.namespace],
        )

    async def _check(self, _request: bytes, context: Context) -> bytes:
        self.questions += 1
        await self._misbehave("Check", context)
        return b"\x08\x01"  # SERVING

    async def _misbehave(self, method: str, context: Context) -> None:
        if method in self.hangs:
            await asyncio.Event().wait()
        if method in self.fails:
            await context.abort(*self.fails[method])

    async def _wait(self, key: bytes, request: pb.GetPromptRequest | pb.QueryRAGRequest) -> bool:
        """Wait while somebody has the lease, as the request says; whether there was a wait."""
        if key not in self.leases or not request.HasField("wait"):
            return False
        self.waiting += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(request.wait.ToTimedelta().total_seconds()):
                await self._changed.wait_for(lambda: key not in self.leases)
        self.waiting -= 1
        return True

    def _grant(
        self,
        key: bytes,
        request: pb.GetPromptRequest | pb.QueryRAGRequest,
        miss: pb.PromptMiss | pb.RAGMiss,
    ) -> None:
        if key not in self.leases:
            self._granted += 1
            miss.lease = self.leases[key] = b"lease-%d" % self._granted
            miss.lease_ttl.CopyFrom(request.lease_ttl)

    def _found(self, request: pb.GetPromptRequest, *, waited: bool) -> pb.GetPromptResponse:
        key = request.identity.key
        entry = self.entries.get(key)
        if entry is not None:
            hit = pb.PromptHit(
                answer=entry.answer,
                content_type=entry.content_type,
                cost_saved_usd=entry.cost_usd,
                layer=pb.HIT_LAYER_FLIGHT if waited else pb.HIT_LAYER_L1,
            )
            if entry.HasField("usage"):
                hit.usage.CopyFrom(entry.usage)
            hit.age.FromMilliseconds(1500)
            hit.remaining_ttl.FromSeconds(60)
            return pb.GetPromptResponse(hit=hit)
        miss = pb.PromptMiss(in_progress=key in self.leases)
        if not request.peek:
            self._grant(key, request, miss)
        return pb.GetPromptResponse(miss=miss)


def rag_key(identity: pb.RAGIdentity) -> bytes:
    """Say which query it is, as well as these tests need it."""
    return identity.SerializeToString(deterministic=True)


def _rag_hit(request: pb.QueryRAGRequest, result: pb.StoreRAGRequest, *, waited: bool) -> pb.RAGHit:
    hit = pb.RAGHit(
        kind=pb.RAG_HIT_KIND_EXACT,
        similarity=1.0,
        documents=result.documents[: request.top_k or 10],
        cost_saved_usd=result.cost_usd,
        layer=pb.HIT_LAYER_FLIGHT if waited else pb.HIT_LAYER_L1,
    )
    for document in hit.documents:
        document.ClearField("embedding")
    hit.age.FromMilliseconds(1500)
    hit.remaining_ttl.FromSeconds(60)
    return hit
