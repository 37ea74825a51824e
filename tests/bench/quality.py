"""``python -m tests.bench.quality``: are similar hits as good as the real retrieval?

Real questions with real embeddings: one half are the documents of an exact dense retriever, the
other half pass caches of different thresholds one by one; a miss is stored with its best 50. The
table says how often a query hits, and of the hits how many are off, that is have less than 8 of the
true 10 documents: as they are stored, re-ranked, and certified. One thread; a minute or so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from math import sqrt
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.quality_runs import Tally

THRESHOLDS = (0.80, 0.85, 0.90, 0.95, 0.98, 0.99)
OFF_MAX = 0.02
"""Re-ranked hits at the recommended threshold are off no more often than one in fifty."""

EMBEDDINGS = Path(__file__).parents[2].parent / "shared/data/questions/minilm_float16.npy"
_DOCUMENTS, _QUERIES = 20_000, 20_000
_QUICK_DOCUMENTS, _QUICK_QUERIES = 5_000, 5_000
_CONFIDENCE = 1.96  # 95 %
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def upper_limit(events: int, trials: int) -> float:
    """Return the upper end of Wilson's 95 % interval of a share (JASA 22, 1927)."""
    if not trials:
        return 1.0
    share, spread = events / trials, _CONFIDENCE**2 / trials
    middle = share + spread / 2
    half = sqrt(spread * share * (1 - share) + spread**2 / 4)
    return (middle + half) / (1 + spread)


def recommended(tallies: Sequence[Tally]) -> float | None:
    """Return the lowest threshold at which re-ranked hits are good enough; None if none is.

    Good enough: the share that is off is at most ``OFF_MAX``, by the upper end of its interval.
    Above the lowest that passes there can be thresholds with too few hits to say so.
    """
    passing = [
        tally.threshold
        for tally in tallies
        if upper_limit(tally.reranked_off, tally.hits) <= OFF_MAX
    ]
    return min(passing, default=None)


def show(tallies: Sequence[Tally], console: Console) -> None:
    """Print the table, and what follows from it."""
    table = Table(
        title="Similar hits: share with less than 8 of the true 10 documents, from 50 candidates",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("threshold", "queries that hit", "hits", "as stored", "re-ranked"):
        table.add_column(heading, justify="right")
    for heading in ("all 10 right, re-ranked", "certified, of hits", "certified, but different"):
        table.add_column(heading, justify="right")
    for tally in tallies:
        table.add_row(
            f"{tally.threshold:.2f}",
            _share(tally.hits, tally.queries),
            f"{tally.hits:,}",
            _share(tally.plain_off, tally.hits),
            f"{_share(tally.reranked_off, tally.hits)} "
            f"(≤ {upper_limit(tally.reranked_off, tally.hits):.1%})",
            _share(tally.hits - tally.reranked_different, tally.hits),
            _share(tally.certified, tally.hits),
            f"{tally.certified_different}",
        )
    console.print(table)
    console.print("In brackets: the upper end of the 95 % confidence interval.", style="dim")
    threshold = recommended(tallies)
    rule = f"at most {OFF_MAX:.0%} of the re-ranked hits are off, by the upper end of the interval"
    if threshold is None:
        console.print(f"No threshold to recommend: at none, {rule}.")
    else:
        console.print(
            f"Recommended rag_rerank_threshold: [bold]{threshold:.2f}[/], the lowest where {rule}."
        )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of the questions")
    parser.add_argument("--embeddings", type=Path, default=EMBEDDINGS, help="of the questions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser.parse_args()


def measure(embeddings: Path, progress: Callable[[str], None], *, quick: bool) -> list[Tally]:
    """Run everything in one thread, unless NumPy has been imported before."""
    for name in _THREADS:
        os.environ[name] = "1"
    from tests.bench import quality_runs as runs

    documents, queries = _QUICK_DOCUMENTS, _QUICK_QUERIES
    if not quick:
        documents, queries = _DOCUMENTS, _QUERIES
    progress("loading the embeddings")
    stream = runs.retrieve(*runs.load(embeddings, documents=documents, queries=queries), progress)
    return runs.run_caches(stream, THRESHOLDS, progress)


def main() -> int:
    """Measure and print; 1 if a certified hit was not the true result: the proof is broken then."""
    options = _arguments()
    console = Console(width=None if Console().is_terminal else 132)
    if not options.embeddings.exists():
        console.print("Skipped: there are no questions with embeddings beside the work tree.")
        return 0
    begun = perf_counter()
    with console.status("starting") as status:
        tallies = measure(options.embeddings, status.update, quick=options.quick)
    show(tallies, console)
    console.print(f"{perf_counter() - begun:.0f} s", style="dim")
    if options.json is not None:
        figures = {
            "thresholds": [tally.counts() for tally in tallies],
            "recommended": recommended(tallies),
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    if any(tally.certified_different for tally in tallies):
        console.print("A certified hit is not what the retriever finds.", style="red")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
