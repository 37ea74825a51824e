"""Messages that are about no single entry: leases, invalidations, statistics. No I/O."""

from __future__ import annotations

from mge_cache import _stats_types, _types
from mge_cache._wire_parts import duration, usage_of
from mge_cache.errors import InvalidRequestError
from mge_cache.v1 import cache_service_pb2 as pb


def hold_request(lease: _types.Lease, *, max_s: float) -> pb.HoldLeaseRequest:
    """Hold a lease."""
    return pb.HoldLeaseRequest(lease=lease.token, max=duration("hold_s", max_s))


def invalidate_request(
    *,
    namespace: str,
    key: bytes | None,
    masterplan: str | None,
    tag: str | None,
    model: str | None,
    document: str | None,
    collection: str | None,
    everything: bool,
) -> pb.InvalidateRequest:
    """Invalidate. Raises InvalidRequestError unless exactly one target is named."""
    named = {
        "key": key,
        "masterplan": masterplan,
        "tag": tag,
        "model": model,
        "document": document,
        "collection": collection,
        "everything": everything or None,
    }
    given = {name: target for name, target in named.items() if target is not None}
    if len(given) != 1:
        raise InvalidRequestError("target", f"exactly one of {', '.join(named)} is required")
    [(name, target)] = given.items()
    message = pb.InvalidateRequest(namespace=namespace)
    try:
        setattr(message, name, target)
    except (TypeError, ValueError):
        raise InvalidRequestError(name, "has the wrong type, or no UTF-8 form") from None
    return message


def stats_request(namespace: str) -> pb.StatsRequest:
    """Ask for statistics."""
    return pb.StatsRequest(namespace=namespace)


def stats_of(response: pb.StatsResponse) -> _stats_types.Stats:
    """Read the statistics."""
    l1, store, index = response.l1, response.store, response.rag_index
    return _stats_types.Stats(
        layers=tuple(_layer(layer) for layer in response.layers),
        combined_hit_rate=response.combined_hit_rate,
        l1=_stats_types.L1Stats(
            entries=l1.entries,
            size_bytes=l1.bytes,
            max_bytes=l1.max_bytes,
            evictions=l1.evictions,
        ),
        store=_stats_types.StoreStats(
            kind=store.kind, available=store.available, feed_live=store.feed_live
        ),
        rag_index=_stats_types.RagIndexStats(
            partitions=index.partitions,
            rows=index.rows,
            size_bytes=index.bytes,
            max_bytes=index.max_bytes,
            rows_left_out=index.rows_left_out,
            reranked_hits=index.reranked_hits,
            certified_hits=index.certified_hits,
            kind=index.kind,
        ),
        batcher=_batcher(response.batcher),
        unpriced_models=tuple(response.unpriced_models),
        uptime_s=response.uptime_seconds,
        version=response.version,
    )


def _batcher(batcher: pb.BatcherStats) -> _stats_types.BatcherStats:
    return _stats_types.BatcherStats(
        batches=batcher.batches,
        requests=batcher.requests,
        mean_size=batcher.mean_size,
        batches_by_strategy=dict(batcher.batches_by_strategy),
        asked_alone=batcher.asked_alone,
        rejected=batcher.rejected,
        queued=batcher.queued,
        queue_max=batcher.queue_max,
        upstream_calls=dict(batcher.upstream_calls),
        upstream_in_flight=batcher.upstream_in_flight,
        upstream_limit=batcher.upstream_limit,
        upstream_breaker_open=batcher.upstream_breaker_open,
        has_key=batcher.has_key,
        batches_by_outcome=dict(batcher.batches_by_outcome),
        mean_wait_s=batcher.mean_wait_seconds,
        mean_first_delta_s=batcher.mean_first_delta_seconds,
        mean_upstream_s=batcher.mean_upstream_seconds,
        models={
            model: _stats_types.ModelUse(usage=usage_of(use.usage), cost_usd=use.cost_usd)
            for model, use in batcher.models.items()
        },
        deferred_batches=batcher.deferred_batches,
        deferred_requests=batcher.deferred_requests,
    )


def _layer(layer: pb.LayerStats) -> _stats_types.LayerStats:
    return _stats_types.LayerStats(
        cache_layer=layer.cache_layer,
        hit_rate=layer.hit_rate,
        total_hits=layer.total_hits,
        total_misses=layer.total_misses,
        total_writes=layer.total_writes,
        total_invalidations=layer.total_invalidations,
        total_errors=layer.total_errors,
        errors_by_operation=dict(layer.errors_by_operation),
        spent_usd=layer.spent_usd,
        saved_usd=layer.saved_usd,
        cost_reduction=layer.cost_reduction,
        saved_s=layer.saved_seconds,
        unpriced_writes=layer.unpriced_writes,
        computed_s=layer.computed_seconds,
    )
