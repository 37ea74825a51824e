"""What each recording rule records."""

from __future__ import annotations

from tests.observe.rule_cases import RecordCase, metric

_LAYERS = {
    metric("v2_cache_hits_total", 'cache_layer="llm",pod="a"'): "0+60x60",
    metric("v2_cache_hits_total", 'cache_layer="llm",pod="b"'): "0+60x60",
    metric("v2_cache_misses_total", 'cache_layer="llm",pod="a"'): "0+40x60",
    metric("v2_cache_hits_total", 'cache_layer="rag",pod="a"'): "0+60x60",
    metric("v2_cache_misses_total", 'cache_layer="rag",pod="a"'): "0+20x60",
    metric("v2_cache_hits_total", 'cache_layer="rag_similarity",pod="a"'): "0+60x60",
    metric("v2_cache_misses_total", 'cache_layer="rag_similarity",pod="a"'): "0+180x60",
}
_IDLE = {
    metric("v2_cache_hits_total", 'cache_layer="llm"'): "7x60",
    metric("v2_cache_misses_total", 'cache_layer="llm"'): "3x60",
}

RECORDS = (
    *(
        RecordCase(
            f"namespace_job:mge_cache_lookups:rate{window}",
            "each query once",
            _LAYERS,
            59,
            {"": 5.0},
        )
        for window in ("5m", "30m")
    ),
    *(
        RecordCase(
            f"namespace_job:mge_cache_hit_rate:ratio_rate{window}",
            "each query once",
            _LAYERS,
            59,
            {"": 0.8},
        )
        for window in ("5m", "30m")
    ),
    *(
        RecordCase(
            f"namespace_job:mge_cache_hit_rate:ratio_rate{window}", "no look-ups", _IDLE, 59, {}
        )
        for window in ("5m", "30m")
    ),
    RecordCase(
        "namespace_job_cache_layer:mge_cache_hit_rate:ratio_rate5m",
        "by layer",
        _LAYERS,
        59,
        {
            'cache_layer="llm"': 0.75,
            'cache_layer="rag"': 0.75,
            'cache_layer="rag_similarity"': 0.25,
        },
    ),
    RecordCase(
        "namespace_job_cache_layer:mge_cache_hit_rate:ratio_rate5m", "no look-ups", _IDLE, 59, {}
    ),
    RecordCase(
        "namespace_job:mge_cache_cost_reduction:ratio_rate1h",
        "saved 3 of 4 dollars",
        {
            metric("v2_cache_cost_savings_usd_total", 'cache_layer="llm"'): "0+0.03x90",
            metric("mge_cache_spent_usd_total", 'cache_layer="llm"'): "0+0.01x90",
        },
        80,
        {"": 0.75},
    ),
    RecordCase(
        "namespace_job:mge_cache_cost_reduction:ratio_rate1h",
        "nothing spent or saved",
        {
            metric("v2_cache_cost_savings_usd_total", 'cache_layer="llm"'): "1x90",
            metric("mge_cache_spent_usd_total", 'cache_layer="llm"'): "1x90",
        },
        80,
        {},
    ),
    RecordCase(
        "namespace_job:mge_cache_saved_seconds:rate1h",
        "by two sidecars",
        {
            metric("mge_cache_saved_seconds_total", 'cache_layer="llm",pod="a"'): "0+30x90",
            metric("mge_cache_saved_seconds_total", 'cache_layer="rag",pod="b"'): "0+90x90",
        },
        80,
        {"": 2.0},
    ),
)
