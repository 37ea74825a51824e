"""The batcher's metrics. ``docs/metrics.md`` explains each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from mge_cache_server.batch_counts import BatcherStatistics


def batcher_metrics(batcher: BatcherStatistics) -> Iterator[Metric]:
    """Yield what a snapshot says."""
    yield CounterMetricFamily(
        "v2_batch_requests_processed", "Requests sent in batches.", batcher.requests
    )
    yield _by(
        "mge_cache_batches",
        "Batches sent, by strategy.",
        "strategy",
        batcher.batches_by_strategy,
    )
    yield CounterMetricFamily(
        "mge_cache_batch_asked_alone",
        "Requests of merged batches that were asked again alone.",
        batcher.asked_alone,
    )
    yield CounterMetricFamily(
        "mge_cache_batch_rejected", "Requests refused: the queue was full.", batcher.rejected
    )
    yield GaugeMetricFamily("mge_cache_batch_queued", "Requests not yet sent.", batcher.queued)
    yield GaugeMetricFamily(
        "mge_cache_batch_queue_max", "The bound on requests not yet sent.", batcher.queue_max
    )
    yield GaugeMetricFamily(
        "mge_cache_deferred_batches",
        "Deferred batches that are under way here.",
        batcher.deferred_batches,
    )
    yield GaugeMetricFamily(
        "mge_cache_deferred_requests",
        "Requests of them without an outcome yet.",
        batcher.deferred_requests,
    )
    yield _by(
        "mge_cache_upstream_calls",
        "Calls on Anthropic that ended, by outcome.",
        "outcome",
        batcher.upstream_calls,
    )
    yield GaugeMetricFamily(
        "mge_cache_upstream_in_flight",
        "Calls on Anthropic under way.",
        batcher.upstream_in_flight,
    )
    yield GaugeMetricFamily(
        "mge_cache_upstream_limit",
        "How many of them there may be at present.",
        batcher.upstream_limit,
    )
    yield GaugeMetricFamily(
        "mge_cache_upstream_breaker_open",
        "1 while Anthropic is left alone because it failed, else 0.",
        float(batcher.upstream_breaker_open),
    )


def _by(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family
