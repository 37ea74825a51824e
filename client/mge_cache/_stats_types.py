"""The figures that a client reads of its sidecar. Nothing here does I/O or knows protobuf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mge_cache._types import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStats:
    """Counts of one layer of the cache since the sidecar started; named as in REST.

    ``cost_reduction`` is saved / (saved + spent); ``unpriced_writes`` are answers whose model has
    no known price, so that their cost counts 0; ``computed_s`` is the time that the answers took
    that were paid for.
    """

    cache_layer: str
    hit_rate: float
    total_hits: int
    total_misses: int
    total_writes: int
    total_invalidations: int
    total_errors: int
    errors_by_operation: Mapping[str, int]
    spent_usd: float
    saved_usd: float
    cost_reduction: float
    saved_s: float
    unpriced_writes: int
    computed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class L1Stats:
    """The sidecar's own memory, of all namespaces."""

    entries: int
    size_bytes: int
    max_bytes: int
    evictions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """The sidecar's connection to its store.

    ``feed_live``: invalidations by other sidecars arrive as they happen.
    """

    kind: str
    available: bool
    feed_live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RagIndexStats:
    """The search for similar queries, of all namespaces: what it looks through, what it found.

    ``kind`` is "local" (in the sidecar's memory) or "vector-sets" (in the store, as last seen).
    ``rows`` are queries; ``rows_left_out`` had to be because a bound was reached.
    """

    partitions: int
    rows: int
    size_bytes: int
    max_bytes: int
    rows_left_out: int
    reranked_hits: int
    certified_hits: int
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUse:
    """What was bought of a model; ``cost_usd`` is 0 if its price is unknown."""

    usage: Usage
    cost_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherStats:
    """The sidecar's batcher, of all namespaces: what it did, and what it is at.

    ``batches_by_strategy``: see ``Strategy``. ``asked_alone`` requests of merged batches had to be
    asked again. ``rejected`` ones found the queue full (``queued`` of ``queue_max`` wait now).
    ``upstream_calls`` on Anthropic are by outcome: "ok", "rate_limited", "failed", ...;
    ``upstream_limit`` adapts to Anthropic's. ``upstream_breaker_open``: Anthropic is left alone, as
    it failed. ``has_key``: there is a key to it. ``batches_by_outcome``: "ok", "partly", "failed",
    "cancelled". The means are those of a request's wait for its batch, and of a call's time to the
    first part of its text and to its end. ``models``: what was bought of each. The last two are
    what is under way.
    """

    batches: int
    requests: int
    mean_size: float
    batches_by_strategy: Mapping[str, int]
    asked_alone: int
    rejected: int
    queued: int
    queue_max: int
    upstream_calls: Mapping[str, int]
    upstream_in_flight: int
    upstream_limit: int
    upstream_breaker_open: bool
    has_key: bool
    batches_by_outcome: Mapping[str, int]
    mean_wait_s: float
    mean_first_delta_s: float
    mean_upstream_s: float
    models: Mapping[str, ModelUse]
    deferred_batches: int
    deferred_requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Statistics of one sidecar."""

    layers: tuple[LayerStats, ...]
    combined_hit_rate: float
    l1: L1Stats
    store: StoreStats
    rag_index: RagIndexStats
    batcher: BatcherStats
    unpriced_models: tuple[str, ...]
    uptime_s: float
    version: str

    @property
    def cost_reduction(self) -> float:
        """The saved share of what all layers would have cost; 0 if nothing would have."""
        return _share(
            sum(layer.saved_usd for layer in self.layers),
            sum(layer.spent_usd for layer in self.layers),
        )

    @property
    def time_reduction(self) -> float:
        """The saved share of the time that all answers would have taken, as far as it is known."""
        return _share(
            sum(layer.saved_s for layer in self.layers),
            sum(layer.computed_s for layer in self.layers),
        )


def _share(saved: float, paid: float) -> float:
    total = saved + paid
    return saved / total if total else 0.0
