"""What the Grafana dashboard shows: rows of charts, and the PromQL of each.

``docs/metrics.md`` has the metrics. ``@`` in a query stands for the matchers of the dashboard's
variables. The rows on what goes on behind the cache are in ``dashboard_rows_inside``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RATE = "$__rate_interval"
RANGE = "$__range"


@dataclass(frozen=True, slots=True)
class Query:
    """One query and how the legend names its series."""

    promql: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A panel. ``unit`` is Grafana's name of it; ``width`` is of 24 columns."""

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    text: str = ""
    width: int = 8
    kind: Literal["lines", "stack", "number", "heat map"] = "lines"
    low: float | None = 0
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Charts under one heading."""

    title: str
    charts: tuple[Chart, ...]


_LOOKUP_MISSES = 'v2_cache_misses_total{@,cache_layer!="rag_similarity"}'


def _share(part: str, rest: str, by: str = "", over: str = RATE, function: str = "rate") -> str:
    """``part / (part + rest)`` of two counters; nothing where both stand still."""
    first, second = (f"sum{by}({function}({each}[{over}]))" for each in (part, rest))
    return f"{first} / ({first} + {second} > 0)"


def _quantile(share: float, metric: str, by: str) -> str:
    return f"histogram_quantile({share}, sum by (le, {by}) (rate({metric}[{RATE}])))"


_HITS_OF_ALL = _share("v2_cache_hits_total{@}", _LOOKUP_MISSES)
_REDUCTION = ("v2_cache_cost_savings_usd_total{@}", "mge_cache_spent_usd_total{@}")


def _number(title: str, promql: str, unit: str, text: str, high: float | None = None) -> Chart:
    return Chart(title, (Query(promql),), unit, text, 4, "number", high=high)


OVERVIEW = Row(
    "Overview, over the time shown",
    (
        _number(
            "Hit rate",
            _share("v2_cache_hits_total{@}", _LOOKUP_MISSES, over=RANGE, function="increase"),
            "percentunit",
            "Each query counts once.",
            1,
        ),
        _number(
            "Saved",
            f"sum(increase(v2_cache_cost_savings_usd_total{{@}}[{RANGE}]))",
            "currencyUSD",
            "Dollars that hits saved.",
        ),
        _number(
            "Spent",
            f"sum(increase(mge_cache_spent_usd_total{{@}}[{RANGE}]))",
            "currencyUSD",
            "Dollars paid for the answers that were stored.",
        ),
        _number(
            "Cost reduction",
            _share(*_REDUCTION, over=RANGE, function="increase"),
            "percentunit",
            "The saved share of what would have been spent.",
            1,
        ),
        _number(
            "Time saved",
            f"sum(increase(mge_cache_saved_seconds_total{{@}}[{RANGE}]))",
            "s",
            "For each hit, how long its answer took to compute.",
        ),
        _number("Sidecars", "count(mge_cache_build_info{@})", "short", "That were scraped."),
    ),
)

HITS = Row(
    "Hits and misses",
    (
        Chart(
            "Hits",
            (
                Query(
                    f"sum by (cache_layer) (rate(v2_cache_hits_total{{@}}[{RATE}]))",
                    "{{cache_layer}}",
                ),
            ),
            "reqps",
            kind="stack",
        ),
        Chart(
            "Misses",
            (
                Query(
                    f"sum by (cache_layer) (rate(v2_cache_misses_total{{@}}[{RATE}]))",
                    "{{cache_layer}}",
                ),
            ),
            "reqps",
            "A miss of rag_similarity is a miss of rag too. A step upwards after a deployment: "
            "has the key changed?",
            kind="stack",
        ),
        Chart(
            "Hit rate",
            (
                Query(_HITS_OF_ALL, "all"),
                Query(
                    _share(
                        "v2_cache_hits_total{@}", "v2_cache_misses_total{@}", " by (cache_layer) "
                    ),
                    "{{cache_layer}}",
                ),
            ),
            "percentunit",
            high=1,
        ),
        Chart(
            "Answers stored and invalidations",
            (
                Query(f"sum(rate(v2_cache_writes_total{{@}}[{RATE}]))", "stored"),
                Query(f"sum(rate(v2_cache_invalidations_total{{@}}[{RATE}]))", "invalidations"),
            ),
            "reqps",
            "More invalidations than expected explain a low hit rate.",
            width=12,
        ),
        Chart(
            "Similar hits ranked anew, and certified",
            (
                Query(f"sum(rate(mge_cache_rag_reranked_hits_total{{@}}[{RATE}]))", "ranked anew"),
                Query(f"sum(rate(mge_cache_rag_certified_hits_total{{@}}[{RATE}]))", "certified"),
            ),
            "reqps",
            width=12,
        ),
    ),
)

MONEY = Row(
    "Money and time",
    (
        Chart(
            "Dollars an hour",
            (
                Query(
                    f"3600 * sum(rate(v2_cache_cost_savings_usd_total{{@}}[{RATE}]))",
                    "saved",
                ),
                Query(f"3600 * sum(rate(mge_cache_spent_usd_total{{@}}[{RATE}]))", "spent"),
            ),
            "currencyUSD",
        ),
        Chart("Cost reduction", (Query(_share(*_REDUCTION), "all"),), "percentunit", high=1),
        Chart(
            "Callers that need not wait",
            (
                Query(
                    f"sum by (cache_layer) (rate(mge_cache_saved_seconds_total{{@}}[{RATE}]))",
                    "{{cache_layer}}",
                ),
            ),
            "short",
            "Seconds of waiting saved in each second.",
            kind="stack",
        ),
        Chart(
            "Answers without a price",
            (
                Query(
                    f"sum by (pod) (increase(mge_cache_unpriced_writes_total{{@}}[{RATE}]))",
                    "{{pod}}",
                ),
            ),
            "short",
            "They count as 0 dollars; the statistics name their models. Give these a price in "
            "--prices-file.",
            width=24,
        ),
    ),
)

_RPCS = "grpc_server_handling_seconds_bucket{@}"
RPCS = Row(
    "RPCs",
    (
        Chart(
            "Latency",
            (Query(f"sum by (le) (rate({_RPCS}[{RATE}]))", "{{le}}"),),
            "s",
            "Of all RPCs. HoldLease lasts as long as the lease; GetPrompt may wait for another.",
            12,
            "heat map",
        ),
        Chart(
            "99th percentile",
            (Query(_quantile(0.99, _RPCS, "grpc_method"), "{{grpc_method}}"),),
            "s",
            width=12,
        ),
        Chart(
            "RPCs",
            (
                Query(
                    f"sum by (grpc_method) (rate(grpc_server_handled_total{{@}}[{RATE}]))",
                    "{{grpc_method}}",
                ),
            ),
            "reqps",
            width=12,
            kind="stack",
        ),
        Chart(
            "By status",
            (
                Query(
                    f"sum by (grpc_code) (rate(grpc_server_handled_total{{@}}[{RATE}]))",
                    "{{grpc_code}}",
                ),
            ),
            "reqps",
            "A miss is OK. CANCELLED and DEADLINE_EXCEEDED are callers that gave up.",
            width=12,
        ),
    ),
)
