"""``mge-cache stats``: the sidecar's figures, once or again and again."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING

import click

from mge_cache_server.cli.entries import Duration
from mge_cache_server.cli.sidecar import connect, json_option, target_option
from mge_cache_server.config_parse import format_duration

if TYPE_CHECKING:
    from rich.table import Table

    from mge_cache import RagIndexStats, Stats

_INTERVAL_MIN_S = 0.1


@click.command(short_help="Show the sidecar's figures.")
@target_option
@click.option("-n", "--namespace", default="", help="Only this namespace.  [default: all]")
@click.option(
    "-w",
    "--watch",
    "interval_s",
    is_flag=False,
    flag_value=2.0,
    type=Duration(),
    metavar="[INTERVAL]",
    help="Show them again and again, every 2s or as given, until Ctrl-C.",
)
@json_option
def stats(
    *,
    target: str | None,
    namespace: str,
    interval_s: float | None,
    as_json: bool,
) -> None:
    """Show what the sidecar has counted since it started: hits, dollars spent and saved, errors.

    \b
      mge-cache stats
      mge-cache stats --watch 5s
      mge-cache stats --json | jq .layers[0].saved_usd
    """
    with connect(target) as client:
        if as_json:
            _print_json(client.stats(namespace=namespace))
            while interval_s is not None:
                time.sleep(max(interval_s, _INTERVAL_MIN_S))
                _print_json(client.stats(namespace=namespace))
            return
        from rich.console import Console  # noqa: PLC0415 (not for `serve`)
        from rich.live import Live  # noqa: PLC0415

        console = Console(highlight=False)
        if interval_s is None:
            console.print(make_table(client.stats(namespace=namespace), namespace))
            return
        table = make_table(client.stats(namespace=namespace), namespace)
        if not console.is_terminal:
            # A pipe or a file gets one table after the other, each when it is made.
            while True:
                console.print(table)
                sys.stdout.flush()
                time.sleep(max(interval_s, _INTERVAL_MIN_S))
                table = make_table(client.stats(namespace=namespace), namespace)
        with Live(table, console=console, auto_refresh=False) as live:
            while True:
                time.sleep(max(interval_s, _INTERVAL_MIN_S))
                table = make_table(client.stats(namespace=namespace), namespace)
                live.update(table, refresh=True)


def _print_json(figures: Stats) -> None:
    click.echo(json.dumps(dataclasses.asdict(figures)))


def make_table(figures: Stats, namespace: str) -> Table:
    """Lay the figures out as a table of two columns."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    uptime = format_duration(float(round(figures.uptime_s)))
    title = f"mge-cache {figures.version}, up {uptime}, {namespace or 'all namespaces'}"
    table = Table("", "", title=title, show_header=False, title_justify="left")
    table.columns[1].justify = "right"
    for layer in figures.layers:
        lookups = layer.total_hits + layer.total_misses
        table.add_row("layer", layer.cache_layer)
        table.add_row("look-ups", f"{lookups:,}")
        table.add_row("hits", f"{layer.total_hits:,} ({layer.hit_rate:.1%})")
        table.add_row("misses", f"{layer.total_misses:,}")
        table.add_row("answers stored", f"{layer.total_writes:,}")
        table.add_row("invalidations", f"{layer.total_invalidations:,}")
        table.add_row("spent", f"${layer.spent_usd:,.4f}")
        table.add_row("saved", f"${layer.saved_usd:,.4f} ({layer.cost_reduction:.1%})")
        table.add_row("time saved", f"{layer.saved_s:,.1f} s")
        table.add_row("errors", f"{layer.total_errors:,}{_by_operation(layer.errors_by_operation)}")
        if layer.unpriced_writes:
            table.add_row("stored without a price", f"{layer.unpriced_writes:,}")
        table.add_section()
    l1 = figures.l1
    entries = f"{l1.entries:,} {'entry' if l1.entries == 1 else 'entries'}"
    table.add_row("own memory", f"{entries}, {_size(l1.size_bytes)} of {_size(l1.max_bytes)}")
    table.add_row("evictions", f"{l1.evictions:,}")
    _add_index_rows(table, figures.rag_index)
    state = "available" if figures.store.available else "NOT AVAILABLE"
    feed = "live" if figures.store.feed_live else "NOT LIVE"
    table.add_row("store", f"{figures.store.kind}: {state}, feed {feed}")
    if figures.unpriced_models:
        # Text: names of models are not markup.
        table.add_row("models without a price", Text("\n".join(figures.unpriced_models)))
    return table


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


def _size(size_bytes: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:,.1f}".removesuffix(".0") + f" {unit}"
    return f"{size_bytes} B"


def _by_operation(errors: object) -> str:
    counts = errors if isinstance(errors, dict) else {}
    named = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count)
    return f" ({named})" if named else ""
