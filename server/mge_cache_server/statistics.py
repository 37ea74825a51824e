"""The figures that users see: one snapshot type for Prometheus, REST and ``Stats``.

A ``Reporter`` reads the counts and the present state of the parts; it keeps nothing itself, so the
three ways to look at the figures cannot disagree. It belongs to the event loop's thread.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mge_cache_server.model import LAYERS, SIMILAR_LAYER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mge_cache_server.batch_counts import BatcherStatistics
    from mge_cache_server.counts import Counts

VECTOR_OPERATIONS: tuple[str, ...] = (
    "search_vectors",
    "put_vector",
    "tend_vectors",
    "drop_vector",
)
"""The operations on vector sets, which not every Redis has."""

DEFERRED_OPERATIONS: tuple[str, ...] = (
    "put_batch",
    "name_batch",
    "claim_batch",
    "release_batch",
    "read_batch",
    "list_batches",
    "end_batch",
    "put_ticket",
    "read_ticket",
)
"""Those on deferred batches."""

STORE_OPERATIONS: tuple[str, ...] = (
    "lookup",
    "put",
    "renew_lease",
    "release_lease",
    "read_epochs",
    "advance",
    "put_row",
    "list_rows",
    "read_rows",
    *DEFERRED_OPERATIONS,
    *VECTOR_OPERATIONS,
    "probe",
)
"""The operations that are timed."""

ERROR_OPERATIONS: tuple[str, ...] = (
    "lookup",
    "put",
    "renew_lease",
    "release_lease",
    "read_epochs",
    "advance",
    "put_row",
    "list_rows",
    "read_rows",
    *DEFERRED_OPERATIONS,
    *VECTOR_OPERATIONS,
    "feed",
    "decode",
)
"""The operations whose errors are reported from the start, with 0."""


class L1State(Protocol):
    """What is reported of the sidecar's own memory."""

    @property
    def entries(self) -> int:
        """Entries in it."""

    @property
    def size_bytes(self) -> int:
        """Bytes that they take."""

    @property
    def max_bytes(self) -> int:
        """The bound on ``size_bytes``."""

    @property
    def evictions(self) -> int:
        """Entries that had to leave because the bound was reached."""


class StoreState(Protocol):
    """What is reported of the store."""

    @property
    def kind(self) -> str:
        """Which store it is: "redis" or "memory"."""

    @property
    def available(self) -> bool:
        """Whether it answers: False while the breaker is open."""


class RagState(Protocol):
    """What is reported of the search for similar queries."""

    def index_statistics(self) -> RagIndexStatistics:
        """Take a snapshot."""


class BatcherState(Protocol):
    """What is reported of the batcher."""

    def statistics(self) -> BatcherStatistics:
        """Take a snapshot."""


class FeedState(Protocol):
    """What is reported of the feed of invalidations."""

    @property
    def live(self) -> bool:
        """Whether invalidations by other sidecars arrive as they happen."""


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """Counts of one layer since the start. Rates are between 0 and 1."""

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


@dataclass(frozen=True, slots=True)
class L1Statistics:
    """The sidecar's own memory, of all namespaces."""

    entries: int
    size_bytes: int
    max_bytes: int
    evictions: int


@dataclass(frozen=True, slots=True)
class RagIndexStatistics:
    """The search for similar queries, of all namespaces: see ``RAGIndexStats``."""

    kind: str = "local"
    partitions: int = 0
    rows: int = 0
    size_bytes: int = 0
    max_bytes: int = 0
    left_out: int = 0
    reranked_hits: int = 0
    certified_hits: int = 0


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """The connection to the store."""

    kind: str
    available: bool
    feed_live: bool


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot of one sidecar. ``layers`` has every layer, in the order of ``model.LAYERS``."""

    layers: tuple[LayerStatistics, ...]
    combined_hit_rate: float
    l1: L1Statistics
    store: StoreStatistics
    rag_index: RagIndexStatistics
    batcher: BatcherStatistics
    unpriced_models: tuple[str, ...]
    uptime_s: float
    version: str


class Reporter:
    """Takes snapshots. The sidecar's uptime begins with this object."""

    def __init__(
        self,
        counts: Counts,
        *,
        l1: L1State,
        store: StoreState,
        epochs: FeedState,
        rag: RagState,
        batcher: BatcherState,
        version: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counts = counts
        self._l1 = l1
        self._store = store
        self._epochs = epochs
        self._rag = rag
        self._batcher = batcher
        self._version = version
        self._clock = clock
        self._started_s = clock()

    def report(self, namespace: str = "") -> Statistics:
        """Return the figures of ``namespace``, or the sums over all namespaces if it is empty.

        A namespace that nobody has used has zeros. L1, store, uptime and version are the sidecar's
        in either case. ``unpriced_models`` is empty in the report of one namespace: which namespace
        used a model is not known, and another's models are none of its business.
        """
        layers = tuple(self._layer(layer, namespace) for layer in LAYERS)
        hits = sum(layer.total_hits for layer in layers)
        # Each query counts once: one that no similar query answered is a miss of the layer "rag".
        misses = sum(x.total_misses for x in layers if x.cache_layer != SIMILAR_LAYER)
        lookups = hits + misses
        return Statistics(
            layers=layers,
            combined_hit_rate=hits / lookups if lookups else 0.0,
            l1=L1Statistics(
                entries=self._l1.entries,
                size_bytes=self._l1.size_bytes,
                max_bytes=self._l1.max_bytes,
                evictions=self._l1.evictions,
            ),
            store=StoreStatistics(
                kind=self._store.kind,
                available=self._store.available,
                feed_live=self._epochs.live,
            ),
            rag_index=self._rag.index_statistics(),
            batcher=self._batcher.statistics(),
            unpriced_models=() if namespace else self._counts.unpriced_models,
            uptime_s=self._clock() - self._started_s,
            version=self._version,
        )

    def _layer(self, layer: str, namespace: str) -> LayerStatistics:
        counts = self._counts.total(layer, namespace)
        return LayerStatistics(
            cache_layer=layer,
            hit_rate=counts.hit_rate,
            total_hits=counts.hits,
            total_misses=counts.misses,
            total_writes=counts.writes,
            total_invalidations=counts.invalidations,
            total_errors=sum(counts.errors.values()),
            errors_by_operation=dict.fromkeys(ERROR_OPERATIONS, 0) | counts.errors,
            spent_usd=counts.spent_usd,
            saved_usd=counts.saved_usd,
            cost_reduction=counts.cost_reduction,
            saved_s=counts.saved_s,
            unpriced_writes=counts.unpriced_writes,
            computed_s=counts.computed_s,
        )
