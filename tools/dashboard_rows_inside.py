"""The rest of ``dashboard_rows``: what goes on behind the cache."""

from __future__ import annotations

from tools.dashboard_rows import HITS, MONEY, OVERVIEW, RATE, RPCS, Chart, Query, Row


def _per_pod(metric: str) -> tuple[Query, ...]:
    return (Query(f"sum by (pod) ({metric}{{@}})", "{{pod}}"),)


def _rate_by(label: str, metric: str) -> tuple[Query, ...]:
    return (Query(f"sum by ({label}) (rate({metric}{{@}}[{RATE}]))", f"{{{{{label}}}}}"),)


def _percentiles(metric: str, by: str = "") -> tuple[Query, ...]:
    series = f"{metric}_bucket{{@}}"
    return tuple(
        Query(
            f"histogram_quantile({share}, sum by (le{by}) (rate({series}[{RATE}])))",
            name,
        )
        for share, name in ((0.5, "median"), (0.99, "99th percentile"))
    )


BATCHES = Row(
    "Batches and upstream",
    (
        Chart("Size of batches", _percentiles("v2_batch_size"), text="Requests in one call."),
        Chart(
            "Requests in batches",
            (
                *(
                    Query(f"sum(rate({metric}{{@}}[{RATE}]))", name)
                    for metric, name in (
                        ("v2_batch_requests_processed_total", "processed"),
                        ("mge_cache_batch_asked_alone_total", "asked alone"),
                        ("mge_cache_batch_rejected_total", "rejected"),
                    )
                ),
                Query(
                    f"sum by (strategy) (rate(mge_cache_batches_total{{@}}[{RATE}]))",
                    "batches, {{strategy}}",
                ),
            ),
            "reqps",
        ),
        Chart(
            "Queue",
            (
                Query("sum by (pod) (mge_cache_batch_queued{@})", "{{pod}}"),
                Query("max(mge_cache_batch_queue_max{@})", "bound of one sidecar"),
            ),
            text="Requests that wait for a batch. At the bound, further ones are refused.",
        ),
        Chart("Calls of the model", _rate_by("outcome", "mge_cache_upstream_calls_total"), "reqps"),
        Chart("Latency of the model", _percentiles("mge_cache_upstream_seconds"), "s"),
        Chart(
            "Calls in flight",
            (
                Query("sum(mge_cache_upstream_in_flight{@})", "in flight"),
                Query("sum(mge_cache_upstream_limit{@})", "limit"),
                Query("sum(mge_cache_upstream_breaker_open{@})", "breakers open"),
            ),
            text="The limit adapts to what the model's service takes.",
        ),
    ),
)

STORE = Row(
    "Store",
    (
        Chart(
            "Sidecars",
            (
                Query("sum(mge_cache_store_up{@})", "store answers"),
                Query("sum(mge_cache_breaker_open{@})", "breaker open"),
                Query("sum(mge_cache_feed_live{@})", "feed live"),
            ),
            text="How many. All of them should have a store and a feed, none an open breaker.",
        ),
        Chart(
            "99th percentile of operations",
            (
                Query(
                    "histogram_quantile(0.99, sum by (le, operation) "
                    f"(rate(mge_cache_store_operation_seconds_bucket{{@}}[{RATE}])))",
                    "{{operation}}",
                ),
            ),
            "s",
        ),
        Chart(
            "Operations",
            _rate_by("operation", "mge_cache_store_operation_seconds_count"),
            "reqps",
            kind="stack",
        ),
        Chart(
            "Errors",
            _rate_by("operation", "v2_cache_errors_total"),
            "reqps",
            "feed: the connection on which invalidations arrive. decode: a damaged record.",
            width=12,
        ),
        Chart(
            "Secrets and certificates that can be read",
            (Query("min by (file) (mge_cache_file_readable{@})", "{{file}}"),),
            "bool_yes_no",
            "0 if any sidecar cannot read it.",
            width=6,
            high=1,
        ),
        Chart(
            "Certificates end in",
            (
                Query(
                    "min by (file) (mge_cache_certificate_expiry_seconds{@}) - time()", "{{file}}"
                ),
            ),
            "s",
            width=6,
            low=None,
        ),
    ),
)

MEMORY = Row(
    "Memory",
    (
        Chart(
            "L1: how full",
            (
                Query(
                    "sum by (pod) (mge_cache_l1_bytes{@}) "
                    "/ sum by (pod) (mge_cache_l1_max_bytes{@} > 0)",
                    "{{pod}}",
                ),
            ),
            "percentunit",
            "The sidecar's own memory of answers (--l1-max).",
            high=1,
        ),
        Chart("L1: entries", _per_pod("mge_cache_l1_entries")),
        Chart(
            "L1: evictions",
            _rate_by("pod", "mge_cache_l1_evictions_total"),
            "reqps",
            "Entries that had to leave: with a full L1, raise --l1-max.",
        ),
        Chart(
            "RAG index: how full",
            (
                Query(
                    "sum by (pod) (mge_cache_rag_bytes{@}) "
                    "/ sum by (pod) (mge_cache_rag_max_bytes{@} > 0)",
                    "{{pod}}",
                ),
            ),
            "percentunit",
            "Queries in memory for similar hits (--rag-index-max).",
            high=1,
        ),
        Chart(
            "RAG index: queries and partitions",
            (
                Query("sum(mge_cache_rag_rows{@})", "queries"),
                Query("sum(mge_cache_rag_partitions{@})", "partitions"),
            ),
        ),
        Chart(
            "RAG index: left out",
            _rate_by("pod", "mge_cache_rag_rows_left_out_total"),
            "reqps",
            "Queries that had to leave, or were not let in.",
        ),
        Chart("Memory in use", _per_pod("process_resident_memory_bytes"), "bytes"),
        Chart("CPU", _rate_by("pod", "process_cpu_seconds_total"), text="Cores in use."),
        Chart("Uptime", _per_pod("mge_cache_uptime_seconds"), "s", "A fall is a restart."),
    ),
)

ROWS = (OVERVIEW, HITS, MONEY, RPCS, BATCHES, STORE, MEMORY)
