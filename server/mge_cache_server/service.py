"""The handlers of ``CacheService``: convert, make one call, convert back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache.v1 import cache_service_pb2_grpc as pb_grpc
from mge_cache_server import keys, wire, wire_rag, wire_responses
from mge_cache_server.interceptors import Unreadable, bidirectional, streaming, unary
from mge_cache_server.model import Answer, LeaseEnd

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from google.protobuf.message import Message

    from mge_cache_server.conversation import Conversations
    from mge_cache_server.prices import Prices
    from mge_cache_server.prompt_cache import PromptCache
    from mge_cache_server.rag_cache import RagCache
    from mge_cache_server.statistics import Reporter

_DESCRIPTOR = pb.DESCRIPTOR.services_by_name["CacheService"]
SERVICE_NAME = _DESCRIPTOR.full_name

_HANDLERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""By whether the request and the response are streams."""


class CacheService(pb_grpc.CacheServiceServicer):
    """Serves the contract. ``observe(method, code, seconds)`` is called at each call's end."""

    def __init__(
        self,
        *,
        prompts: PromptCache,
        rag: RagCache,
        conversations: Conversations,
        prices: Prices,
        reporter: Reporter,
        limits: wire.Limits,
        rag_query_cost_usd: float,
        observe: Callable[[str, str, float], None],
    ) -> None:
        self._prompts = prompts
        self._rag = rag
        self._rag_query_cost_usd = rag_query_cost_usd
        self._prices = prices
        self._reporter = reporter
        self._limits = limits
        # Instance attributes hide the base class's methods, which only answer UNIMPLEMENTED.
        self.GetPrompt = unary("GetPrompt", self._get_prompt, observe)  # type: ignore[assignment]
        self.SetPrompt = unary("SetPrompt", self._set_prompt, observe)  # type: ignore[assignment]
        self.HoldLease = streaming("HoldLease", self._hold_lease, observe)  # type: ignore[assignment]
        self.QueryRAG = unary("QueryRAG", self._query_rag, observe)  # type: ignore[assignment]
        self.StoreRAG = unary("StoreRAG", self._store_rag, observe)  # type: ignore[assignment]
        self.Invalidate = unary("Invalidate", self._invalidate, observe)  # type: ignore[assignment]
        generate = bidirectional("Generate", conversations.hold, observe)
        self.Generate = generate  # type: ignore[assignment]
        self.Stats = unary("Stats", self._stats, observe)  # type: ignore[assignment]

    async def _get_prompt(self, request: pb.GetPromptRequest) -> pb.GetPromptResponse:
        key = wire.entry_key(request.identity, self._limits, model_required=False)
        wait_s = wire.wait(request, self._limits)
        lease_ttl_s = wire.lease_ttl(request, self._limits)
        if request.peek:
            return wire_responses.get_response(await self._prompts.peek(key))
        outcome = await self._prompts.get(
            key, wait_s=wait_s, lease_ttl_s=lease_ttl_s, asks_again=request.asks_again
        )
        return wire_responses.get_response(outcome)

    async def _set_prompt(self, request: pb.SetPromptRequest) -> pb.SetPromptResponse:
        limits = self._limits
        key = wire.entry_key(request.identity, limits, model_required=True)
        model, usage = request.identity.model, wire.usage(request)
        cost_usd = wire.cost_usd(request)
        if cost_usd is None:
            await self._prices.prepare(model)
            cost_usd = self._prices.cost_usd(model, usage)
        outcome = await self._prompts.set(
            key,
            Answer(
                body=wire.answer_body(request, limits),
                content_type=wire.content_type(request),
                model=model,
                usage=usage,
                cost_usd=cost_usd or 0.0,
                compute_s=wire.compute_time(request),
            ),
            tags=wire.tags(request, key, limits, own=(keys.model_tag(model),)),
            ttl_s=wire.ttl(request, limits),
            lease=wire.lease(request.lease, key),
            bought=not request.preloaded,
            priced=cost_usd is not None,
        )
        return wire_responses.set_response(outcome)

    async def _hold_lease(
        self, request: pb.HoldLeaseRequest
    ) -> AsyncGenerator[pb.HoldLeaseResponse, None]:
        lease = keys.unpack_lease(request.lease)
        max_s = wire.hold_max(request)
        leases = self._prompts.leases
        try:
            if not await leases.renew(lease):
                yield wire_responses.lease_end(LeaseEnd.LOST)
                return
            yield pb.HoldLeaseResponse(state=pb.LEASE_STATE_HELD)
        except (asyncio.CancelledError, GeneratorExit):
            # The caller went before `hold` could watch over the lease.
            leases.release(lease)
            raise
        yield wire_responses.lease_end(await leases.hold(lease, max_s))

    async def _query_rag(self, request: pb.QueryRAGRequest) -> pb.QueryRAGResponse:
        outcome = await self._rag.query(
            wire_rag.query(request),
            wait_s=wire.wait(request, self._limits),
            lease_ttl_s=wire.lease_ttl(request, self._limits),
            asks_again=request.asks_again,
        )
        return wire_responses.query_response(outcome)

    async def _store_rag(self, request: pb.StoreRAGRequest) -> pb.StoreRAGResponse:
        key, partition = wire_rag.place(request.identity)
        outcome = await self._rag.store(
            key,
            partition,
            wire_rag.retrieval(request, self._limits, self._rag_query_cost_usd),
            exact_search=request.exact_search,
            tags=wire_rag.tags(request, key, partition, self._limits),
            ttl_s=wire.ttl(request, self._limits),
            lease=wire.lease(request.lease, key),
            bought=not request.preloaded,
        )
        return wire_responses.store_response(outcome)

    async def _invalidate(self, request: pb.InvalidateRequest) -> pb.InvalidateResponse:
        namespace = wire.namespace(request.namespace)
        # All caches have the same epochs; only the count tells which one was meant.
        of_rag = request.WhichOneof("target") in {"document", "collection"}
        cache = self._rag if of_rag else self._prompts
        tick = await cache.invalidate(namespace, wire.invalidated_tag(request))
        return pb.InvalidateResponse(tick=tick)

    async def _stats(self, request: pb.StatsRequest) -> pb.StatsResponse:
        namespace = wire.namespace(request.namespace) if request.namespace else ""
        return wire_responses.stats_response(self._reporter.report(namespace))


def register(service: CacheService, server: grpc.aio.Server) -> None:
    """Add the service to a server.

    Not by the generated function: with it, bytes that are no message end as UNKNOWN, with a trace
    in the log.
    """
    methods = {}
    for method in _DESCRIPTOR.methods:
        methods[method.name] = _HANDLERS[method.client_streaming, method.server_streaming](
            getattr(service, method.name),
            request_deserializer=_parser(GetMessageClass(method.input_type)),
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
    handler = grpc.method_handlers_generic_handler(SERVICE_NAME, methods)
    server.add_generic_rpc_handlers((handler,))
    server.add_registered_method_handlers(  # type: ignore[attr-defined] # not in its stubs
        SERVICE_NAME, methods
    )


def _parser(message: type[Message]) -> Callable[[bytes], Message | Unreadable]:
    def parse(request: bytes) -> Message | Unreadable:
        try:
            return message.FromString(request)
        except DecodeError:
            return Unreadable()

    return parse
