"""What ``make validate`` prints."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from tests.validate.measures import COST_REDUCTION, HIT_RATE, TIME_REDUCTION

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from rich.console import Console

    from tests.validate.measures import Measured


def show(measured: Sequence[Measured], options: argparse.Namespace, console: Console) -> int:
    """Print all runs; return 0 if all but the one with little repetition reach the targets."""
    table = Table(title="A masterplan's run, without and with the cache and the batcher")
    for name in ("run", "repeated", "hit rate", "cost", "time", "bill", "seconds"):
        table.add_column(name, justify="left" if name == "run" else "right")
    table.add_row(
        "target",
        "",
        f"≥ {HIT_RATE:.0%}",
        f"-{COST_REDUCTION:.0%}",
        f"-{TIME_REDUCTION:.0%}",
        style="dim",
    )
    for each in measured:
        table.add_row(
            each.name,
            f"{each.repetition:.0%}",
            _judged(each.hit_rate, HIT_RATE, f"{each.hit_rate:.1%}"),
            _judged(each.cost_reduction, COST_REDUCTION, f"-{each.cost_reduction:.1%}"),
            _judged(each.time_reduction, TIME_REDUCTION, f"{-each.time_reduction:+.1%}"),
            f"${each.billed_bare_usd:.3f} → ${each.billed_cached_usd:.3f}",
            f"{each.bare_s:.1f} → {each.cached_s:.1f}",
        )
    console.print(table)
    console.print(
        f"{options.atoms} atoms, {options.concurrency} at once; delays of the Messages server x "
        f"{options.delay:g}. 'Repeated': the share of atoms that ask what an earlier one of the "
        "plan has asked, in the same words; an assumption, and what decides about the rest. "
        "Hit rate and cost are the sidecar's own figures (all layers, retrievals at an assumed "
        "price); the bill is what the Messages server charged, the time is by the clock.",
        highlight=False,
    )
    errors = sum(each.account.errors for each in measured)
    if errors:
        console.print(f"{errors} operations of the store failed: the machine was busy")
    if options.json is not None:
        options.json.write_text(json.dumps([_figures(each) for each in measured], indent=2) + "\n")
    if options.quick:
        return 0  # so small and fast, the times are those of starting
    return 0 if all(each.reaches_all for each in measured[:-1]) else 1


def _judged(value: float, target: float, text: str) -> str:
    return f"[green]{text}[/]" if value >= target else f"[red]{text}[/]"


def _figures(measured: Measured) -> dict[str, object]:
    return {
        **asdict(measured),
        "hit_rate": measured.hit_rate,
        "cost_reduction": measured.cost_reduction,
        "time_reduction": measured.time_reduction,
        "billed_reduction": measured.billed_reduction,
    }
