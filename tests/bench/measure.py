"""What a run of calls yields."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class LoadError(Exception):
    """A server answered with an error, or not as expected."""


@dataclass(frozen=True, slots=True)
class Run:
    """A closed loop of calls with a fixed number in flight, and the latency of each."""

    latencies_s: Sequence[float]
    elapsed_s: float

    @property
    def calls(self) -> int:
        """Number of calls."""
        return len(self.latencies_s)

    @property
    def per_s(self) -> float:
        """Calls per second."""
        return self.calls / self.elapsed_s


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the quartiles around it."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of one value or more."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which ``percent`` of the values lie (nearest rank); 0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    rank = min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered)) - 1))
    return ordered[rank]
