"""Responses: model to protobuf."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration

from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache_server import keys
from mge_cache_server.model import Hit, HitSource, LeaseEnd, Miss, SetStatus

if TYPE_CHECKING:
    from mge_cache_server.batch_counts import BatcherStatistics
    from mge_cache_server.model import Entry, RagHit, SetOutcome
    from mge_cache_server.statistics import LayerStatistics, Statistics

_HIT_LAYERS = {
    HitSource.L1: pb.HIT_LAYER_L1,
    HitSource.STORE: pb.HIT_LAYER_STORE,
    HitSource.FLIGHT: pb.HIT_LAYER_FLIGHT,
}
_SET_STATUSES = {
    SetStatus.STORED: pb.SET_STATUS_STORED,
    SetStatus.KEPT_LOCALLY: pb.SET_STATUS_KEPT_LOCALLY,
    SetStatus.OVERTAKEN: pb.SET_STATUS_OVERTAKEN,
    SetStatus.DISABLED: pb.SET_STATUS_DISABLED,
}
_LEASE_ENDS = {
    LeaseEnd.FULFILLED: pb.LEASE_STATE_FULFILLED,
    LeaseEnd.LOST: pb.LEASE_STATE_LOST,
}


def hit_response(hit: Hit[Entry]) -> pb.GetPromptResponse:
    """Write a hit."""
    # Field by field: half the time of constructors, in the call that is made most.
    entry = hit.entry
    answer, usage = entry.answer, entry.answer.usage
    response = pb.GetPromptResponse()
    into = response.hit
    into.answer = answer.body
    into.content_type = answer.content_type
    into.usage.input_tokens = usage.input_tokens
    into.usage.output_tokens = usage.output_tokens
    into.usage.cache_read_tokens = usage.cache_read_tokens
    into.usage.cache_write_tokens = usage.cache_write_tokens
    into.cost_saved_usd = answer.cost_usd
    _write_duration(_age_s(entry.created_ms), into.age)
    _write_duration(hit.remaining_s, into.remaining_ttl)
    into.layer = _HIT_LAYERS[hit.source]
    into.degraded = hit.degraded
    return response


def miss_response(miss: Miss) -> pb.GetPromptResponse:
    """Write a miss."""
    response = pb.GetPromptResponse()
    _write_miss(miss, response.miss)
    return response


def query_response(outcome: RagHit | Miss) -> pb.QueryRAGResponse:
    """Write what a query found."""
    if isinstance(outcome, Miss):
        response = pb.QueryRAGResponse()
        _write_miss(outcome, response.miss)
        return response
    found, exact = outcome.found, outcome.similarity is None
    result = found.entry.answer
    return pb.QueryRAGResponse(
        hit=pb.RAGHit(
            kind=pb.RAG_HIT_KIND_EXACT if exact else pb.RAG_HIT_KIND_SIMILAR,
            similarity=1.0 if outcome.similarity is None else outcome.similarity,
            cached_query=result.query,
            documents=[
                pb.RAGDocument(
                    id=each.id, score=each.score, content=each.content, metadata=each.metadata
                )
                for each in outcome.documents
            ],
            reranked=outcome.reranked,
            certified=outcome.certified,
            cost_saved_usd=result.cost_usd,
            age=duration(_age_s(found.entry.created_ms)),
            remaining_ttl=duration(found.remaining_s),
            layer=_HIT_LAYERS[found.source],
            degraded=found.degraded,
        )
    )


def store_response(outcome: SetOutcome) -> pb.StoreRAGResponse:
    """Write what became of a result."""
    ttl = duration(outcome.ttl_s) if outcome.ttl_s else None
    return pb.StoreRAGResponse(
        status=_SET_STATUSES[outcome.status], ttl=ttl, cost_usd=outcome.cost_usd
    )


def set_response(outcome: SetOutcome) -> pb.SetPromptResponse:
    """Write what became of an answer."""
    ttl = duration(outcome.ttl_s) if outcome.ttl_s else None
    return pb.SetPromptResponse(
        status=_SET_STATUSES[outcome.status], ttl=ttl, cost_usd=outcome.cost_usd
    )


def lease_end(end: LeaseEnd) -> pb.HoldLeaseResponse:
    """Write how a lease ended."""
    return pb.HoldLeaseResponse(state=_LEASE_ENDS[end])


def get_response(outcome: Hit[Entry] | Miss) -> pb.GetPromptResponse:
    """Write what a look-up found."""
    return hit_response(outcome) if isinstance(outcome, Hit) else miss_response(outcome)


def stats_response(statistics: Statistics) -> pb.StatsResponse:
    """Write statistics."""
    l1, store, index = statistics.l1, statistics.store, statistics.rag_index
    return pb.StatsResponse(
        layers=[_layer_stats(layer) for layer in statistics.layers],
        combined_hit_rate=statistics.combined_hit_rate,
        l1=pb.L1Stats(
            entries=l1.entries, bytes=l1.size_bytes, max_bytes=l1.max_bytes, evictions=l1.evictions
        ),
        store=pb.StoreStats(kind=store.kind, available=store.available, feed_live=store.feed_live),
        unpriced_models=statistics.unpriced_models,
        uptime_seconds=statistics.uptime_s,
        version=statistics.version,
        rag_index=pb.RAGIndexStats(
            partitions=index.partitions,
            rows=index.rows,
            bytes=index.size_bytes,
            max_bytes=index.max_bytes,
            rows_left_out=index.left_out,
            reranked_hits=index.reranked_hits,
            certified_hits=index.certified_hits,
            kind=index.kind,
        ),
        batcher=_batcher_stats(statistics.batcher),
    )


def _batcher_stats(batcher: BatcherStatistics) -> pb.BatcherStats:
    return pb.BatcherStats(
        batches=batcher.batches,
        requests=batcher.requests,
        mean_size=batcher.mean_size,
        batches_by_strategy=batcher.batches_by_strategy,
        asked_alone=batcher.asked_alone,
        rejected=batcher.rejected,
        queued=batcher.queued,
        queue_max=batcher.queue_max,
        upstream_calls=batcher.upstream_calls,
        upstream_in_flight=batcher.upstream_in_flight,
        upstream_limit=batcher.upstream_limit,
        upstream_breaker_open=batcher.upstream_breaker_open,
        has_key=batcher.has_key,
        batches_by_outcome=batcher.batches_by_outcome,
        mean_wait_seconds=batcher.mean_wait_seconds,
        mean_first_delta_seconds=batcher.mean_first_delta_seconds,
        mean_upstream_seconds=batcher.mean_upstream_seconds,
        models={
            model: pb.ModelUse(
                usage=pb.Usage(
                    input_tokens=use.input_tokens,
                    output_tokens=use.output_tokens,
                    cache_read_tokens=use.cache_read_tokens,
                    cache_write_tokens=use.cache_write_tokens,
                ),
                cost_usd=use.cost_usd,
            )
            for model, use in batcher.models.items()
        },
        deferred_batches=batcher.deferred_batches,
        deferred_requests=batcher.deferred_requests,
    )


def _write_miss(miss: Miss, into: pb.PromptMiss | pb.RAGMiss) -> None:
    into.in_progress = miss.in_progress
    into.degraded = miss.degraded
    if miss.lease is not None:
        into.lease = keys.pack_lease(miss.lease)
        into.lease_ttl.CopyFrom(duration(miss.lease.ttl_s))


def _age_s(created_ms: int) -> float:
    return max(0.0, time.time() - created_ms / 1000)


def _layer_stats(layer: LayerStatistics) -> pb.LayerStats:
    return pb.LayerStats(
        cache_layer=layer.cache_layer,
        hit_rate=layer.hit_rate,
        total_hits=layer.total_hits,
        total_misses=layer.total_misses,
        total_writes=layer.total_writes,
        total_invalidations=layer.total_invalidations,
        total_errors=layer.total_errors,
        errors_by_operation=layer.errors_by_operation,
        spent_usd=layer.spent_usd,
        saved_usd=layer.saved_usd,
        cost_reduction=layer.cost_reduction,
        saved_seconds=layer.saved_s,
        unpriced_writes=layer.unpriced_writes,
        computed_seconds=layer.computed_s,
    )


def _write_duration(seconds: float, into: Duration) -> None:
    into.seconds = int(seconds)
    into.nanos = int((seconds - into.seconds) * 1e9)


def duration(seconds: float) -> Duration:
    """Write a time."""
    result = Duration()
    _write_duration(seconds, result)
    return result
