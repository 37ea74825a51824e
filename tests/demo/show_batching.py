"""What the batcher part of the demo prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from mge_cache import AnswerSource

if TYPE_CHECKING:
    from rich.console import Console

    from tests.demo.batching import Batched, Pass


def show_batching(batched: Batched, console: Console) -> None:
    """Print where the atoms' answers came from, in what batches, and for how much."""
    passes = (batched.first, batched.again)
    table = Table(title="A masterplan's atoms through the batcher, merged", box=box.SIMPLE_HEAD)
    table.add_column("what")
    table.add_column("first", justify="right")
    table.add_column("once more", justify="right")

    def row(name: str, *cells: str) -> None:
        table.add_row(name, *cells)

    row(f"atoms, {batched.different:,} of them different", *(f"{len(p.answers):,}" for p in passes))
    for name, source in (
        ("asked Anthropic", AnswerSource.UPSTREAM),
        ("shared an answer under way", AnswerSource.FLIGHT),
        ("from the cache", AnswerSource.CACHE),
    ):
        row(name, *(f"{each.count(source):,}" for each in passes))
    row("batches", *(_batches(each) for each in passes))
    row("calls served", *(f"{each.served.calls:,}" for each in passes))
    row("dollars billed", *(f"${each.served.billed_usd:.4f}" for each in passes))
    row(
        "dollars saved",
        *(f"${sum(a.cost_saved_usd for a in each.answers):.4f}" for each in passes),
    )
    row("time", *(f"{each.elapsed_s:.1f} s" for each in passes))
    console.print(table)


def _batches(each: Pass) -> str:
    return ", ".join(f"{count} of {size}" for size, count in each.batches.items()) or "none"
