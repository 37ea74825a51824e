"""What the demo prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from mge_cache import Source
from tests.bench.measure import percentile
from tests.demo.show_batching import show_batching
from tests.demo.show_retrieval import show_retrievals

if TYPE_CHECKING:
    from rich.console import Console

    from mge_cache import LayerStats
    from tests.demo.accounts import Comparison
    from tests.demo.batching import Batched
    from tests.demo.options import Options
    from tests.demo.retrieval import Retrieved
    from tests.demo.work import Finished


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a demo found. ``bare`` is what was run without the cache."""

    options: Options
    stats: LayerStats
    work: Finished
    bare: Finished
    retrieved: list[Retrieved]
    batched: Batched
    comparisons: list[Comparison]

    @property
    def bare_s(self) -> float:
        """The time without the cache, for all calls.

        Extrapolated from a sample by the mean latency, as if no worker were ever idle: a sample's
        own time would count its last, half-idle moments too heavily, in the cache's favour.
        """
        if len(self.bare.calls) == self.options.calls:
            return self.bare.elapsed_s
        mean_s = sum(done.latency_s for done in self.bare.calls) / len(self.bare.calls)
        return mean_s * self.options.calls / min(self.options.concurrency, self.options.calls)


def show(outcome: Outcome, console: Console) -> None:
    """Print the tables, and what disagrees."""
    console.print(_saved(outcome))
    console.print(_latencies(outcome))
    show_retrievals(outcome.retrieved, console)
    show_batching(outcome.batched, console)
    wrong = [each for each in outcome.comparisons if not each.agrees]
    if not wrong:
        names = ", ".join(each.what for each in outcome.comparisons)
        console.print(
            f"[green]The accounts agree[/]: the sidecar's statistics, what the Messages server "
            f"served and billed, and what the client saw ({names})."
        )
    for each in wrong:
        console.print(
            f"[bold red]The accounts disagree[/] on {each.what}: the sidecar says "
            f"{each.sidecar:.10g}, the {each.other_name} {each.other:.10g}."
        )
    for operation, count in sorted(outcome.stats.errors_by_operation.items()):
        if count:
            often = "once" if count == 1 else f"{count:,} times"
            console.print(f"[yellow]Valkey was too slow[/] {often}, in {operation}.")


def _saved(outcome: Outcome) -> Table:
    options, stats = outcome.options, outcome.stats
    sampled = len(outcome.bare.calls)
    how = "measured" if sampled == options.calls else f"extrapolated from {sampled:,} calls"
    table = Table(title="What the cache saved", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_column("remark", style="dim")
    calls = len(outcome.work.calls)
    different = len({done.text for done in outcome.work.calls})
    table.add_row("calls", f"{calls:,}", f"about {different:,} different texts")
    waited = sum(done.waited for done in outcome.work.calls)
    table.add_row("hits", f"{stats.total_hits:,}", f"{waited:,} of them waited for another call")
    table.add_row("misses", f"{stats.total_misses:,}", "")
    computed = sum(done.source is Source.COMPUTED for done in outcome.work.calls)
    table.add_row("calls saved", f"{calls - computed:,}", f"{computed:,} reached the provider")
    table.add_row("hit rate", f"{stats.hit_rate:.1%}", "", end_section=True)
    table.add_row("dollars spent", f"${stats.spent_usd:.4f}", "")
    table.add_row("dollars saved", f"${stats.saved_usd:.4f}", "")
    table.add_row("cost reduction", f"{stats.cost_reduction:.1%}", "", end_section=True)
    table.add_row("time with the cache", f"{outcome.work.elapsed_s:.1f} s", "measured")
    table.add_row("time without it", f"{outcome.bare_s:.1f} s", how)
    table.add_row("faster", f"{outcome.bare_s / outcome.work.elapsed_s:.1f} times", "")
    return table


def _latencies(outcome: Outcome) -> Table:
    table = Table(title="Latencies that the client saw", box=box.SIMPLE_HEAD)
    table.add_column("call")
    for heading in ("count", "p50", "p99"):
        table.add_column(heading, justify="right")
    calls = outcome.work.calls
    for name, latencies_s in (
        ("hit", _of(outcome.work, hit=True, waited=False)),
        ("hit that waited for another call", _of(outcome.work, hit=True, waited=True)),
        ("miss", _of(outcome.work, hit=False, waited=False)),
        ("without the cache", [done.latency_s for done in outcome.bare.calls]),
    ):
        if latencies_s and calls:
            cells = (_time(percentile(latencies_s, percent)) for percent in (50, 99))
            table.add_row(name, f"{len(latencies_s):,}", *cells)
    return table


def _of(work: Finished, *, hit: bool, waited: bool) -> list[float]:
    return [
        done.latency_s
        for done in work.calls
        if (done.source is not Source.COMPUTED) is hit and done.waited is waited
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
