"""The batcher's metrics. ``docs/metrics.md`` explains each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from mge_cache_server.batch_counts import BatcherStatistics, ModelUse


_BATCH_SIZES = (1, 2, 3, 4, 5, 10, 20, 50, 100, 1000)
_WAITS_S = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 5.0, 60.0, 600.0, 3600.0)
_CALLS_S = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)


class BatchHistograms:
    """What the batcher measures; implements ``batch_counts.Timings``."""

    def __init__(self) -> None:
        self._batch_size = _histogram("v2_batch_size", "Requests in a batch.", _BATCH_SIZES)
        self._wait = _histogram(
            "mge_cache_batch_wait_seconds",
            "Time that a request waited for its batch to close.",
            _WAITS_S,
        )
        self._first_delta = _histogram(
            "mge_cache_upstream_first_delta_seconds",
            "Time from a call on Anthropic to the first part of its text.",
            _CALLS_S,
        )
        self._upstream = _histogram(
            "mge_cache_upstream_seconds",
            "Time from a call on Anthropic to the end of its answer.",
            _CALLS_S,
        )

    @property
    def all(self) -> tuple[Histogram, ...]:
        """All of them, to be collected."""
        return self._batch_size, self._wait, self._first_delta, self._upstream

    def batch(self, size: int) -> None:
        """See ``Timings.batch``."""
        self._batch_size.observe(size)

    def waited(self, seconds: float) -> None:
        """See ``Timings.waited``."""
        self._wait.observe(seconds)

    def first_delta(self, seconds: float) -> None:
        """See ``Timings.first_delta``."""
        self._first_delta.observe(seconds)

    def upstream(self, seconds: float) -> None:
        """See ``Timings.upstream``."""
        self._upstream.observe(seconds)


def _histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
    return Histogram(name, text, buckets=buckets, registry=None)


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
    ended = CounterMetricFamily(
        "mge_cache_batch_outcomes",
        "Batches that ended, by outcome.",
        labels=("strategy", "outcome"),
    )
    for labels, count in batcher.outcomes.items():
        ended.add_metric(labels, count)
    yield ended
    yield from _models(batcher.models)
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


def _models(models: Mapping[str, ModelUse]) -> Iterator[Metric]:
    tokens = CounterMetricFamily(
        "mge_cache_upstream_tokens", "Tokens bought, by model.", labels=("model", "kind")
    )
    dollars = CounterMetricFamily(
        "mge_cache_upstream_usd", "US dollars paid for them, by model.", labels=("model",)
    )
    for model, use in models.items():
        tokens.add_metric((model, "input"), use.input_tokens)
        tokens.add_metric((model, "output"), use.output_tokens)
        tokens.add_metric((model, "cache_read"), use.cache_read_tokens)
        tokens.add_metric((model, "cache_write"), use.cache_write_tokens)
        dollars.add_metric((model,), use.cost_usd)
    yield tokens
    yield dollars


def _by(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family
