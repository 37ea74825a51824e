"""The sidecar's figures as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mge_cache_server.config_parse import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from mge_cache import BatcherStats, LayerStats, RagIndexStats, Stats


class Measure(NamedTuple):
    """A measure of success: the cache is worth having where it reaches its target."""

    name: str
    value: float
    target: float


def measures(figures: Stats) -> list[Measure]:
    """Return the three measures of success; each is a share, from 0 to 1."""
    return [
        Measure("hit_rate", figures.combined_hit_rate, 0.60),
        Measure("cost_reduction", figures.cost_reduction, 0.30),
        Measure("time_reduction", figures.time_reduction, 0.40),
    ]


def make_table(figures: Stats, namespace: str) -> Table:
    """Lay the figures out as a table of two columns."""
    from rich.table import Table  # noqa: PLC0415 (not for `serve`)
    from rich.text import Text  # noqa: PLC0415

    uptime = format_duration(float(round(figures.uptime_s)))
    title = f"mge-cache {figures.version}, up {uptime}, {namespace or 'all namespaces'}"
    table = Table("", "", title=title, show_header=False, title_justify="left")
    table.columns[1].justify = "right"
    for name, value, target in measures(figures):
        table.add_row(name.replace("_", " "), f"{value:.1%} (target {target:.0%})")
    table.add_section()
    for layer in figures.layers:
        _add_layer_rows(table, layer)
    l1 = figures.l1
    entries = f"{l1.entries:,} {'entry' if l1.entries == 1 else 'entries'}"
    table.add_row("own memory", f"{entries}, {_size(l1.size_bytes)} of {_size(l1.max_bytes)}")
    table.add_row("evictions", f"{l1.evictions:,}")
    _add_index_rows(table, figures.rag_index)
    _add_batcher_rows(table, figures.batcher)
    state = "available" if figures.store.available else "NOT AVAILABLE"
    feed = "live" if figures.store.feed_live else "NOT LIVE"
    table.add_row("store", f"{figures.store.kind}: {state}, feed {feed}")
    if figures.unpriced_models:
        # Text: names of models are not markup.
        table.add_row("models without a price", Text("\n".join(figures.unpriced_models)))
    return table


def _add_layer_rows(table: Table, layer: LayerStats) -> None:
    lookups = layer.total_hits + layer.total_misses
    table.add_row("layer", layer.cache_layer)
    table.add_row("look-ups", f"{lookups:,}")
    table.add_row("hits", f"{layer.total_hits:,} ({layer.hit_rate:.1%})")
    table.add_row("misses", f"{layer.total_misses:,}")
    table.add_row("answers stored", f"{layer.total_writes:,}")
    table.add_row("invalidations", f"{layer.total_invalidations:,}")
    table.add_row("spent", f"${layer.spent_usd:,.4f}")
    table.add_row("saved", f"${layer.saved_usd:,.4f} ({layer.cost_reduction:.1%})")
    table.add_row("time computed", f"{layer.computed_s:,.1f} s")
    table.add_row("time saved", f"{layer.saved_s:,.1f} s")
    table.add_row("errors", f"{layer.total_errors:,}{_named(layer.errors_by_operation)}")
    if layer.unpriced_writes:
        table.add_row("stored without a price", f"{layer.unpriced_writes:,}")
    table.add_section()


def _add_index_rows(table: Table, index: RagIndexStats) -> None:
    """Describe the search for similar queries, where there is one."""
    if not index.kind:
        return  # an older sidecar
    table.add_section()
    size = _size(index.size_bytes)
    place = f"{size} of {_size(index.max_bytes)}" if index.max_bytes else f"{size} in the store"
    table.add_row("similar queries", f"{index.rows:,} in {index.partitions:,} partitions, {place}")
    if index.max_bytes:
        table.add_row("left out", f"{index.rows_left_out:,}")
    hits = f"{index.reranked_hits:,} re-ranked, {index.certified_hits:,} certified"
    table.add_row("similar hits", hits)
    table.add_section()


def _add_batcher_rows(table: Table, batcher: BatcherStats) -> None:
    """Describe the batcher, where there is one that can ask."""
    if not batcher.queue_max:
        return
    table.add_section()
    if not batcher.has_key:
        table.add_row("batcher", "no key to Anthropic")
    size = f"{batcher.requests:,} requests, {batcher.mean_size:.1f} in each"
    table.add_row("batches", f"{batcher.batches:,} ({size})")
    if batcher.batches:
        table.add_row("by strategy", _named(batcher.batches_by_strategy).strip(" ()"))
        table.add_row("wait for a batch", f"{batcher.mean_wait_s * 1000:,.0f} ms on average")
    if batcher.deferred_batches:
        requests = f"{batcher.deferred_requests:,} open requests"
        table.add_row("deferred batches", f"{batcher.deferred_batches:,} ({requests})")
    table.add_row("asked again alone", f"{batcher.asked_alone:,}")
    waiting = f"{batcher.queued:,} of {batcher.queue_max:,}, {batcher.rejected:,} refused"
    table.add_row("queue", waiting)
    calls = sum(batcher.upstream_calls.values())
    table.add_row("calls on Anthropic", f"{calls:,}{_named(batcher.upstream_calls)}")
    state = ", NOT ASKED as it failed" if batcher.upstream_breaker_open else ""
    under_way = f"{batcher.upstream_in_flight:,} of {batcher.upstream_limit:,}{state}"
    table.add_row("calls under way", under_way)
    table.add_section()


def _size(size_bytes: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:,.1f}".removesuffix(".0") + f" {unit}"
    return f"{size_bytes} B"


def _named(counts: Mapping[str, int]) -> str:
    named = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count)
    return f" ({named})" if named else ""
