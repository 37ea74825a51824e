"""The tables, and the same as JSON."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from tests.bench import dropin
from tests.bench.measure import Spread, spread
from tests.bench.speed import NAMES, RAW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from tests.bench.dropin import DropIn
    from tests.bench.scale import Footprint, Invalidations, Starts
    from tests.bench.speed import Results
    from tests.bench.targets import Target


_BUSY = 0.7


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a run found."""

    results: Results
    starts: Starts
    footprint: Footprint
    invalidations: Invalidations
    dropins: list[DropIn]
    targets: list[Target]
    rounds: int
    round_s: float
    load_before: float
    """The machine's load average as the run began: work of others shows in the figures."""


def show(report: Report, console: Console) -> None:
    """Print all tables."""
    console.print(_speed(report))
    console.print(_scale(report))
    console.print(dropin.table(report.dropins))
    console.print(target_table("Ratios and targets", report.targets))
    if report.load_before > _BUSY:
        console.print(
            f"[yellow]The machine was busy with something else[/] (load average "
            f"{report.load_before:.1f} before the run): take the figures for noise."
        )


def as_json(report: Report) -> dict[str, object]:
    """Return the figures as JSON values, times in seconds, sizes in bytes."""
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "rounds": report.rounds,
        "round_s": report.round_s,
        "load_before": report.load_before,
        "speed": [
            {
                **asdict(case),
                "p50_s": asdict(spread(samples.p50_s)),
                "p99_s": asdict(spread(samples.p99_s)),
                "per_s": asdict(spread(samples.per_s)),
                "server_cpu_per_call_s": samples.cpu_per_call_s,
                "calls": samples.calls,
            }
            for case, samples in report.results.items()
        ],
        "starts": asdict(report.starts),
        "footprint": asdict(report.footprint),
        "invalidations": asdict(report.invalidations),
        "dropins": dropin.as_json(report.dropins),
        "targets": [asdict(target) | {"verdict": target.verdict} for target in report.targets],
    }


def _speed(report: Report) -> Table:
    table = Table(
        title=f"Speed over the unix socket: medians of {report.rounds} rounds of "
        f"{report.round_s:g} s (quartiles)",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("what")
    table.add_column("generator")
    for heading in ("in flight", "p50 µs", "p99 µs", "calls/s", "server CPU µs/call"):
        table.add_column(heading, justify="right", no_wrap=True)
    ordered = sorted(
        report.results,
        key=lambda case: (case.in_flight, case.generator != RAW, NAMES.index(case.name)),
    )
    for position, case in enumerate(ordered):
        samples = report.results[case]
        following = ordered[position + 1 : position + 2]
        table.add_row(
            case.name,
            case.generator,
            str(case.in_flight),
            _around(spread(samples.p50_s), 1e6),
            f"{spread(samples.p99_s).median * 1e6:,.0f}",
            _around(spread(samples.per_s), 1),
            f"{samples.cpu_per_call_s * 1e6:.0f}" if samples.cpu_per_call_s else "",
            end_section=bool(following) and following[0].in_flight != case.in_flight,
        )
    return table


def _scale(report: Report) -> Table:
    table = Table(title="Memory, start, invalidation", box=box.SIMPLE_HEAD)
    table.add_column("what")
    table.add_column("", justify="right")
    footprint, invalidations = report.footprint, report.invalidations
    for name, weight in (
        ("sidecar idle", footprint.idle),
        (f"sidecar after {footprint.entries:,} entries", footprint.full),
        ("its embedded Valkey idle", footprint.embedded_idle),
        ("its embedded Valkey then", footprint.embedded_full),
    ):
        text = f"RSS {weight.rss_bytes / 1e6:.1f} MB, PSS {weight.pss_bytes / 1e6:.1f} MB"
        table.add_row(name, text)
    table.add_row(
        "L1 then",
        f"{footprint.l1_entries:,} entries, {footprint.l1_bytes / 2**20:.1f} of at most "
        f"{footprint.l1_max_bytes / 2**20:.0f} MiB",
    )
    table.add_row("entries stored while filling", f"{footprint.fill_per_s:,.0f}/s")
    starts = report.starts
    table.add_row("start to SERVING, given Redis", f"{_around(starts.given_redis_s, 1e3)} ms")
    table.add_row("start to SERVING, embedded Valkey", f"{_around(starts.embedded_s, 1e3)} ms")
    table.add_row("Invalidate, masterplan of 1 entry", f"{_around(invalidations.one_s, 1e6)} µs")
    table.add_row(
        f"Invalidate, masterplan of {invalidations.entries:,} entries",
        f"{_around(invalidations.many_s, 1e6)} µs (first {invalidations.first_many_s * 1e6:.0f})",
    )
    return table


def target_table(title: str, targets: Sequence[Target]) -> Table:
    """Return figures beside what is wanted of them."""
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("what")
    table.add_column("found", justify="right")
    table.add_column("wanted", justify="right")
    table.add_column("verdict")
    for target in targets:
        style = "" if target.verdict in {"", "pass"} else "bold red"
        table.add_row(
            target.name,
            f"{target.value:.2f}{target.unit}",
            target.bound,
            target.verdict,
            style=style,
        )
    return table


def _around(figures: Spread, scale: float) -> str:
    low, median, high = (value * scale for value in (figures.low, figures.median, figures.high))
    return f"{median:,.0f} ({low:,.0f}-{high:,.0f})"
