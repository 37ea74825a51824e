"""The batcher's figures as tables, beside what is wanted, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from tests.bench.batcher import DIRECT
from tests.bench.report import target_table
from tests.bench.targets import Target

if TYPE_CHECKING:
    from rich.console import Console

    from tests.bench.batcher import BatcherFigures
    from tests.bench.measure import Spread

MERGE_CALLS_MAX = 0.25
FIRST_ADDED_MAX_S = 1e-3


def batcher_targets(figures: BatcherFigures) -> list[Target]:
    """List what is wanted beside what was found."""
    alone, fan_out, merge = figures.bursts
    latency, in_flight = figures.latency, f"{figures.size.in_flight} in flight"
    return [
        Target(
            f"merge / SDK alone, calls, {in_flight}",
            merge.calls / alone.calls,
            "x",
            most=MERGE_CALLS_MAX,
        ),
        Target(f"fan_out / SDK alone, wall time, {in_flight}", fan_out.wall_s / alone.wall_s, "x"),
        Target(f"merge / SDK alone, wall time, {in_flight}", merge.wall_s / alone.wall_s, "x"),
        Target(
            f"merge / SDK alone, dollars, {in_flight}", merge.billed_usd / alone.billed_usd, "x"
        ),
        Target(
            "first delta, window 0: added to the SDK alone, p50",
            latency.added_first_s * 1e3,
            " ms",
            most=FIRST_ADDED_MAX_S * 1e3,
        ),
        Target(
            "of that, gRPC and the stream: an answer from memory, p50",
            latency.hit_s.median * 1e3,
            " ms",
        ),
        Target(
            "first delta, window 0: sidecar / SDK alone, p50",
            latency.first_s.median / latency.direct_first_s.median,
            "x",
        ),
        Target("each later delta: added to the SDK alone, p50", latency.added_delta_s * 1e3, " ms"),
        Target(
            "each later delta: sidecar / SDK alone, p50",
            latency.delta_s.median / latency.direct_delta_s.median,
            "x",
        ),
    ]


def show_batcher(figures: BatcherFigures, console: Console) -> None:
    """Print the tables."""
    size, latency = figures.size, figures.latency
    table = Table(
        title=f"Batcher: {size.in_flight} requests at once to an API that begins after "
        f"{size.first_token_s:g} s and writes {size.answer_tokens} tokens, "
        f"{size.tokens_per_s:g} a second",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("how")
    for heading in ("wall s", "calls", "billed", "first delta p50 s", "answer p50 s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for burst in figures.bursts:
        table.add_row(
            burst.name,
            f"{burst.wall_s:.2f}",
            str(burst.calls),
            f"${burst.billed_usd:.4f}",
            f"{burst.first_delta_s:.2f}",
            f"{burst.whole_s:.2f}",
        )
    console.print(table)
    table = Table(
        title=f"Batcher, window 0, one request at a time: p50 µs of {size.calls} calls, "
        f"median of {size.rounds} rounds (quartiles)",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("how")
    table.add_column("call to first delta", justify="right", no_wrap=True)
    table.add_column("each later delta, from when it was written", justify="right")
    table.add_row(DIRECT, _around(latency.direct_first_s), _around(latency.direct_delta_s))
    table.add_row("sidecar", _around(latency.first_s), _around(latency.delta_s))
    table.add_row("sidecar, from its memory", _around(latency.hit_s), "")
    console.print(table)
    console.print(target_table("Batcher: ratios and targets", batcher_targets(figures)))


def batcher_json(figures: BatcherFigures) -> dict[str, object]:
    """Return the figures as JSON values, times in seconds."""
    return asdict(figures) | {
        "targets": [
            asdict(target) | {"verdict": target.verdict} for target in batcher_targets(figures)
        ]
    }


def _around(figures: Spread) -> str:
    low, median, high = (each * 1e6 for each in (figures.low, figures.median, figures.high))
    return f"{median:,.0f} ({low:,.0f}-{high:,.0f})"
