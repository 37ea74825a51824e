"""Prometheus metrics. ``docs/metrics.md`` explains each of them.

Counts come from a ``Statistics`` that is taken at the scrape; only latencies are kept here. All of
it belongs to the event loop's thread.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mge_cache_server.metrics_batcher import batcher_metrics
from mge_cache_server.statistics import STORE_OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prometheus_client.metrics_core import Metric

    from mge_cache_server.statistics import (
        LayerStatistics,
        RagIndexStatistics,
        Reporter,
        Statistics,
    )

_SERVICE = "mge_cache.v1.CacheService"
_KINDS = {"HoldLease": "server_stream", "Generate": "bidi_stream"}
_METHODS = (
    *("GetPrompt", "SetPrompt", "HoldLease", "QueryRAG", "StoreRAG"),
    *("Invalidate", "Generate", "Stats"),
)
_RPC_LABELS = ("grpc_type", "grpc_service", "grpc_method")

_BUCKETS_S = (
    *(0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)
"""From an L1 hit to a caller that waits for another's answer."""


class Metrics:
    """The sidecar's registry, and the latencies in it; ``histograms`` are kept elsewhere."""

    def __init__(self, reporter: Reporter, histograms: Sequence[Histogram] = ()) -> None:
        self._handled = Counter(
            "grpc_server_handled",
            "RPCs completed on the server, by status code.",
            (*_RPC_LABELS, "grpc_code"),
            registry=None,
        )
        self._handling = _histogram(
            "grpc_server_handling_seconds",
            "Time that the server took for an RPC, waiting for other callers included.",
            _RPC_LABELS,
        )
        self._store = _histogram(
            "mge_cache_store_operation_seconds",
            "Time that an operation of the store took, failed ones included.",
            ("operation",),
        )
        # `labels()` costs about as much as all else here together: children are looked up once.
        self._handled_by: dict[tuple[str, str], Counter] = {}
        self._handling_by: dict[str, Histogram] = {}
        self._store_by: dict[str, Histogram] = {}
        for method in _METHODS:
            self._add_method(method)
            self._add_code(method, "OK")
        for operation in STORE_OPERATIONS:
            self._add_operation(operation)
        self.registry = CollectorRegistry()
        self.registry.register(_StatisticsCollector(reporter))
        kept: tuple[Counter | Histogram, ...] = (
            self._handled,
            self._handling,
            self._store,
            *histograms,
        )
        self.registry.register(_LatencyCollector(kept))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """Count an RPC of ``CacheService`` that ended with the status ``code`` ("OK", …).

        ``method`` is its bare name and one of a fixed few: a name that a client made up does not
        belong here.
        """
        handling = self._handling_by.get(method) or self._add_method(method)
        handled = self._handled_by.get((method, code)) or self._add_code(method, code)
        handling.observe(seconds)
        handled.inc()

    def store_operation(self, operation: str, seconds: float) -> None:
        """Count an operation of the store, failed or not."""
        child = self._store_by.get(operation) or self._add_operation(operation)
        child.observe(seconds)

    def _add_method(self, method: str) -> Histogram:
        child = self._handling.labels(_kind(method), _SERVICE, method)
        self._handling_by[method] = child
        return child

    def _add_code(self, method: str, code: str) -> Counter:
        child = self._handled.labels(_kind(method), _SERVICE, method, code)
        self._handled_by[method, code] = child
        return child

    def _add_operation(self, operation: str) -> Histogram:
        child = self._store.labels(operation)
        self._store_by[operation] = child
        return child


def _histogram(name: str, text: str, labels: Sequence[str]) -> Histogram:
    return Histogram(name, text, labels, buckets=_BUCKETS_S, registry=None)


def _kind(method: str) -> str:
    return _KINDS.get(method, "unary")


class _LatencyCollector(Collector):
    """Yields metrics without their ``_created`` samples: all begin when the process does.

    prometheus_client itself can only leave them out for the whole process, not for a registry.
    """

    def __init__(self, metrics: Sequence[Counter | Histogram]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for metric in self._metrics:
            for family in metric.collect():
                family.samples = [s for s in family.samples if not s.name.endswith("_created")]
                yield family


class _StatisticsCollector(Collector):
    """Yields one ``Statistics``, taken at the scrape."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def collect(self) -> Iterator[Metric]:
        statistics = self._reporter.report()
        yield from _layer_counters(statistics.layers)
        yield _errors(statistics.layers)
        yield from _state(statistics)
        yield from _rag_index(statistics.rag_index)
        yield from batcher_metrics(statistics.batcher)


def _layer_counters(layers: Sequence[LayerStatistics]) -> Iterator[Metric]:
    yield _counter(
        "v2_cache_hits",
        "Look-ups answered from the cache.",
        ((x.cache_layer, x.total_hits) for x in layers),
    )
    yield _counter(
        "v2_cache_misses",
        "Look-ups not answered.",
        ((x.cache_layer, x.total_misses) for x in layers),
    )
    yield _counter(
        "v2_cache_writes",
        "Answers stored.",
        ((x.cache_layer, x.total_writes) for x in layers),
    )
    yield _counter(
        "v2_cache_invalidations",
        "Calls of Invalidate.",
        ((x.cache_layer, x.total_invalidations) for x in layers),
    )
    yield _counter(
        "v2_cache_cost_savings_usd",
        "US dollars that hits saved.",
        ((x.cache_layer, x.saved_usd) for x in layers),
    )
    yield _counter(
        "mge_cache_spent_usd",
        "US dollars paid for the answers that were stored.",
        ((x.cache_layer, x.spent_usd) for x in layers),
    )
    yield _counter(
        "mge_cache_saved_seconds",
        "Time that hits saved.",
        ((x.cache_layer, x.saved_s) for x in layers),
    )
    yield _counter(
        "mge_cache_computed_seconds",
        "Time that the answers took that were paid for.",
        ((x.cache_layer, x.computed_s) for x in layers),
    )
    yield _counter(
        "mge_cache_unpriced_writes",
        "Answers stored whose model has no known price: their cost counts 0.",
        ((x.cache_layer, x.unpriced_writes) for x in layers),
    )


def _counter(name: str, text: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=("cache_layer",))
    for layer, value in values:
        family.add_metric((layer,), value)
    return family


def _errors(layers: Sequence[LayerStatistics]) -> Metric:
    family = CounterMetricFamily(
        "v2_cache_errors",
        "Failures of the store, by operation.",
        labels=("cache_layer", "operation"),
    )
    for layer in layers:
        for operation, count in layer.errors_by_operation.items():
            family.add_metric((layer.cache_layer, operation), count)
    return family


def _rag_index(index: RagIndexStatistics) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "mge_cache_rag_partitions", "Partitions in memory for similar hits.", index.partitions
    )
    yield GaugeMetricFamily("mge_cache_rag_rows", "Queries in them.", index.rows)
    yield GaugeMetricFamily("mge_cache_rag_bytes", "Bytes that they take.", index.size_bytes)
    yield GaugeMetricFamily("mge_cache_rag_max_bytes", "The bound on bytes.", index.max_bytes)
    yield CounterMetricFamily(
        "mge_cache_rag_rows_left_out",
        "Queries that were left out because a bound was reached.",
        index.left_out,
    )
    yield CounterMetricFamily(
        "mge_cache_rag_reranked_hits",
        "Similar hits whose documents were ranked anew.",
        index.reranked_hits,
    )
    yield CounterMetricFamily(
        "mge_cache_rag_certified_hits", "Similar hits that were certified.", index.certified_hits
    )


def _state(statistics: Statistics) -> Iterator[Metric]:
    l1, store = statistics.l1, statistics.store
    yield GaugeMetricFamily("mge_cache_l1_entries", "Entries in the L1.", l1.entries)
    yield GaugeMetricFamily("mge_cache_l1_bytes", "Bytes of the entries in the L1.", l1.size_bytes)
    yield GaugeMetricFamily("mge_cache_l1_max_bytes", "The L1's bound on bytes.", l1.max_bytes)
    yield CounterMetricFamily(
        "mge_cache_l1_evictions",
        "Entries that left the L1 because its bound was reached.",
        l1.evictions,
    )
    up = GaugeMetricFamily(
        "mge_cache_store_up", "1 if the store answers, else 0.", labels=("kind",)
    )
    up.add_metric((store.kind,), float(store.available))
    yield up
    yield GaugeMetricFamily(
        "mge_cache_breaker_open",
        "1 while the breaker keeps calls from the store, else 0.",
        float(not store.available),
    )
    yield GaugeMetricFamily(
        "mge_cache_feed_live",
        "1 if invalidations by other sidecars arrive as they happen, else 0.",
        float(store.feed_live),
    )
    yield GaugeMetricFamily(
        "mge_cache_uptime_seconds", "Time since the sidecar started.", statistics.uptime_s
    )
    build = GaugeMetricFamily(
        "mge_cache_build_info", "Versions, always 1.", labels=("version", "python")
    )
    build.add_metric((statistics.version, platform.python_version()), 1)
    yield build
