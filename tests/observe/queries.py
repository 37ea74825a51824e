"""The queries of a dashboard, as a Prometheus can run them."""

from __future__ import annotations

from typing import Any


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
