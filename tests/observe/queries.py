"""The queries of a dashboard, as a Prometheus can run them."""

from __future__ import annotations

from typing import Any

BATCHER = frozenset(
    {
        "v2_batch_size",
        "v2_batch_requests_processed_total",
        "mge_cache_batches_total",
        "mge_cache_batch_queued",
        "mge_cache_batch_queue_max",
        "mge_cache_batch_rejected_total",
        "mge_cache_batch_asked_alone_total",
        "mge_cache_upstream_calls_total",
        "mge_cache_upstream_seconds",
        "mge_cache_upstream_in_flight",
        "mge_cache_upstream_limit",
        "mge_cache_upstream_breaker_open",
    }
)
"""The metrics that come with the batcher. Until it is there, nothing can be asked of them."""


def queries_of(dashboard: dict[str, Any]) -> list[str]:
    """Every query of every panel."""
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def substituted(query: str, *, namespace: str = ".*", pod: str = ".*") -> str:
    """Fill in what Grafana does; rates are over seconds, as the tests scrape each second."""
    for variable, value in (
        ("$__rate_interval", "10s"),
        ("$__range", "30s"),
        ("$namespace", namespace),
        ("$pod", pod),
    ):
        query = query.replace(variable, value)
    return query
