"""What the RAG part of the demo prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from tests.bench.measure import percentile
from tests.demo.retrieval import CERTIFIED, EXACT, RETRIEVED, SEARCH_USD, SIMILAR, TOP_K

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from tests.demo.retrieval import Retrieved


def show_retrievals(done: Sequence[Retrieved], console: Console) -> None:
    """Print how the questions were answered, what that saved, and an example of each kind."""
    table = Table(title="Retrievals", box=box.SIMPLE_HEAD)
    table.add_column("answered")
    for heading in ("questions", "p50", f"of the search's top {TOP_K}", "saved"):
        table.add_column(heading, justify="right")
    for how in (RETRIEVED, EXACT, SIMILAR, CERTIFIED):
        some = [each for each in done if each.how == how]
        if some:
            right = sum(each.right for each in some) / sum(each.documents for each in some)
            saved_usd = sum(each.saved_usd for each in some)
            p50_s = percentile([each.latency_s for each in some], 50)
            table.add_row(
                how,
                f"{len(some):,} ({len(some) / len(done):.0%})",
                f"{p50_s * 1e3:.1f} ms",
                f"{right:.1%}",
                f"${saved_usd:.4f}" if how != RETRIEVED else "",
            )
    console.print(table)
    hits = [each for each in done if each.how != RETRIEVED]
    by_how = {how: _example(hits, how) for how in (EXACT, SIMILAR, CERTIFIED)}
    for how, example in by_how.items():
        if example:
            _show_example(how, example, console)
    console.print(
        f"[dim]{len(hits) / len(done):.0%} of the searches were saved, at an assumed "
        f"${SEARCH_USD:g} each. The embedder is TF-IDF and an SVD, fitted to the docstrings; the "
        "search is exact; a vector store's delay is imitated.[/]"
    )


def _example(hits: Sequence[Retrieved], how: str) -> Retrieved | None:
    """Choose the least similar one: the others are less of a surprise."""
    some = [each for each in hits if each.how == how]
    return min(some, key=lambda each: each.similarity, default=None)


def _show_example(how: str, example: Retrieved, console: Console) -> None:
    lines = [f"{how}, cosine {example.similarity:.3f}", f"  asked:  {example.question.words}"]
    if example.cached_query and example.cached_query != example.question.words:
        lines.append(f"  cached: {example.cached_query}")
    console.print(Text("\n".join(lines)), no_wrap=True, overflow="ellipsis", crop=True)
