"""What is wanted, and whether it is so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.speed import CLIENT, ECHO, L1_HIT, RAW, REDIS_GET, STORE_HIT, Case, ratio

if TYPE_CHECKING:
    from tests.bench.scale import Footprint, Invalidations, Starts
    from tests.bench.speed import Results

L1_THROUGHPUT_MIN = 0.8
L1_P50_MAX = 1.2
REDIS_GETS_MAX = 2.5
IDLE_MAX_BYTES = 85e6
READY_MAX_S = 1.5
INVALIDATE_MAX = 2.0


@dataclass(frozen=True, slots=True)
class Target:
    """A figure beside its bound. Without a bound, it is there for information."""

    name: str
    value: float
    unit: str
    least: float | None = None
    most: float | None = None

    @property
    def bound(self) -> str:
        """The bound as text."""
        if self.least is not None:
            return f"≥ {self.least:g}{self.unit}"
        return "" if self.most is None else f"≤ {self.most:g}{self.unit}"

    @property
    def verdict(self) -> str:
        """``pass``, by how much it falls short, or nothing without a bound."""
        if self.least is not None:
            return (
                "pass"
                if self.value >= self.least
                else f"short by {1 - self.value / self.least:.0%}"
            )
        if self.most is not None:
            return (
                "pass" if self.value <= self.most else f"over by {self.value / self.most - 1:.0%}"
            )
        return ""


def targets(
    results: Results, starts: Starts, footprint: Footprint, invalidations: Invalidations
) -> list[Target]:
    """List every figure that has a target, and the same ones seen in other ways."""
    found = _throughput(results)
    for generator in (CLIENT, RAW):
        found += _latency(results, generator)
    found += [
        Target(
            "sidecar idle, RSS", footprint.idle.rss_bytes / 1e6, " MB", most=IDLE_MAX_BYTES / 1e6
        ),
        Target(
            "start to SERVING, given Redis", starts.given_redis_s.median, " s", most=READY_MAX_S
        ),
        Target(
            "start to SERVING, embedded Valkey", starts.embedded_s.median, " s", most=READY_MAX_S
        ),
        Target(
            f"Invalidate {invalidations.entries:,} entries / 1 entry, p50",
            invalidations.ratio,
            "x",
            most=INVALIDATE_MAX,
        ),
        Target(
            f"the first of these, of {invalidations.entries:,} live entries / 1 entry, p50",
            invalidations.first_many_s / invalidations.one_s.median,
            "x",
        ),
    ]
    return found


def _throughput(results: Results) -> list[Target]:
    found = []
    for generator, least in ((RAW, L1_THROUGHPUT_MIN), (CLIENT, None)):
        over = results[Case(L1_HIT, generator, 32)]
        under = results[Case(ECHO, generator, 32)]
        share = ratio(over.per_s, under.per_s).median
        found.append(
            Target(f"L1 hit / echo, calls/s, 32 in flight, {generator}", share, "x", least)
        )
    over, under = (results[Case(name, RAW, 32)] for name in (ECHO, L1_HIT))
    share = over.cpu_per_call_s / under.cpu_per_call_s
    found.append(Target(f"echo / L1 hit, server CPU a call, 32 in flight, {RAW}", share, "x"))
    return found


def _latency(results: Results, generator: str) -> list[Target]:
    echo = results[Case(ECHO, generator, 1)].p50_s
    l1 = results[Case(L1_HIT, generator, 1)].p50_s
    store = results[Case(STORE_HIT, generator, 1)].p50_s
    get = results[Case(REDIS_GET, CLIENT, 1)].p50_s
    gets = [(hit_s - echo_s) / get_s for hit_s, echo_s, get_s in zip(store, echo, get, strict=True)]
    return [
        Target(
            f"L1 hit / echo, p50, 1 in flight, {generator}",
            ratio(l1, echo).median,
            "x",
            most=L1_P50_MAX,
        ),
        Target(
            f"(Redis hit - echo) / bare GET, p50, 1 in flight, {generator}",
            sorted(gets)[len(gets) // 2],
            "x",
            most=REDIS_GETS_MAX,
        ),
    ]
