"""The part of the benchmark that is about similar hits: their speed, quality and neighbours."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from tests.bench import quality
from tests.bench.neighbours import ALONE, DIMENSION, NAMES, P99_MAX, PER_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.console import Console

    from tests.bench.neighbours import Neighbours
    from tests.bench.quality_runs import Tally
    from tests.bench.similarity import Case, Figures

SKIPPED = (
    "[yellow]Skipped: speed and quality of similar hits.[/] They need real embeddings, which are "
    "not at ../shared/data; --embeddings FILE takes others (.npy, 40,000 unit vectors of 384)."
)


@dataclass(frozen=True, slots=True)
class Similar:
    """What was found; ``index`` and ``tallies`` are empty without real embeddings."""

    neighbours: Neighbours
    index: list[tuple[Case, Figures]]
    tallies: list[Tally]


def measure_similar(
    embeddings: Path, neighbours: Neighbours, progress: Callable[[str], None], *, quick: bool
) -> Similar:
    """Measure search and quality on embeddings, if they are there. In this thread."""
    if not embeddings.exists():
        return Similar(neighbours, [], [])
    tallies = quality.measure(embeddings, progress, quick=quick)
    from tests.bench import similarity  # imports numpy

    return Similar(neighbours, similarity.measure_all(embeddings, progress, quick=quick), tallies)


def show_similar(found: Similar, console: Console) -> None:
    """Print the tables."""
    console.print(_neighbours(found.neighbours))
    if not found.index:
        console.print(SKIPPED)
        return
    from tests.bench.similarity import table

    console.print(table(found.index))
    console.print("Ratio: of the medians (of the quickest ones).", style="dim")
    quality.show(found.tallies, console)


def similar_as_json(found: Similar) -> dict[str, object]:
    """Return the figures as JSON values."""
    beside = found.neighbours
    return {
        "neighbours": {
            "rows": beside.rows,
            "load_s": beside.load_s,
            "latencies": {
                name: {f"p{percent}_s": beside.at(name, percent) for percent in (50, 99)}
                | {"max_s": beside.worst(name)}
                for name in NAMES
            },
        },
        "index": [asdict(case) | asdict(figures) for case, figures in found.index],
        "quality": [tally.counts() for tally in found.tallies],
    }


def _neighbours(found: Neighbours) -> Table:
    table = Table(
        title=f"GetPrompt (L1, one at a time) beside a partition of {found.rows:,} x {DIMENSION}; "
        f"{PER_S} searches a second, as many stores",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("GetPrompt")
    for heading in ("calls", "p50 µs", "p99 µs", "max µs", "p50 / alone", "p99 / alone", "wanted"):
        table.add_column(heading, justify="right")
    for name in NAMES:
        times_s = (found.at(name, 50), found.at(name, 99), found.worst(name))
        figures = [f"{time_s * 1e6:,.0f}" for time_s in times_s]
        missed = False
        if name != ALONE:
            figures += [f"{found.ratio(name, percent):.2f}x" for percent in (50, 99)]
        if name in P99_MAX:
            missed = found.ratio(name, 99) > P99_MAX[name]
            figures.append(f"≤ {P99_MAX[name]:g}x")
        table.add_row(
            name, f"{len(found.latencies_s[name]):,}", *figures, style="bold red" if missed else ""
        )
    loaded = ", ".join(f"{load_s:.1f}" for load_s in found.load_s)
    table.caption = f"Loaded within {loaded} s. All share the machine's cores."
    return table
