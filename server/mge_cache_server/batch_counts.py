"""What the batcher counts, and what is reported of it. Belongs to the event loop's thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mge_cache_server.generation import Strategy

if TYPE_CHECKING:
    from collections.abc import Mapping

OUTCOMES = ("ok", "rate_limited", "overloaded", "failed", "timed_out", "cancelled")
"""How calls on Anthropic end."""


def _by_strategy() -> dict[Strategy, int]:
    return dict.fromkeys(Strategy, 0)


def _by_outcome() -> dict[str, int]:
    return dict.fromkeys(OUTCOMES, 0)


@dataclass(slots=True)
class BatchCounts:
    """Counts since the start."""

    batches: dict[Strategy, int] = field(default_factory=_by_strategy)
    requests: int = 0
    asked_alone: int = 0
    rejected: int = 0
    upstream_calls: dict[str, int] = field(default_factory=_by_outcome)


@dataclass(frozen=True, slots=True)
class BatcherStatistics:
    """A snapshot: see ``BatcherStats``."""

    batches: int = 0
    requests: int = 0
    mean_size: float = 0.0
    batches_by_strategy: Mapping[str, int] = field(default_factory=dict)
    asked_alone: int = 0
    rejected: int = 0
    queued: int = 0
    queue_max: int = 0
    upstream_calls: Mapping[str, int] = field(default_factory=dict)
    upstream_in_flight: int = 0
    upstream_limit: int = 0
    upstream_breaker_open: bool = False
    has_key: bool = False
    deferred_batches: int = 0
    deferred_requests: int = 0


class _Limiter(Protocol):
    @property
    def in_flight(self) -> int: ...

    @property
    def limit(self) -> int: ...


class _Upstream(Protocol):
    @property
    def limiter(self) -> _Limiter: ...

    @property
    def breaker_open(self) -> bool: ...

    @property
    def has_key(self) -> bool: ...


class _Batcher(Protocol):
    @property
    def queued(self) -> int: ...


class _Deferred(Protocol):
    def __len__(self) -> int: ...

    @property
    def requests(self) -> int: ...


class BatchReporter:
    """Takes snapshots of the batcher."""

    def __init__(
        self,
        counts: BatchCounts,
        batcher: _Batcher,
        upstream: _Upstream,
        deferred: _Deferred,
        *,
        queue_max: int,
    ) -> None:
        self._counts = counts
        self._batcher = batcher
        self._upstream = upstream
        self._deferred = deferred
        self._queue_max = queue_max

    def statistics(self) -> BatcherStatistics:
        """Take one."""
        counts, limiter = self._counts, self._upstream.limiter
        batches = sum(counts.batches.values())
        return BatcherStatistics(
            batches=batches,
            requests=counts.requests,
            mean_size=counts.requests / batches if batches else 0.0,
            batches_by_strategy={each.value: count for each, count in counts.batches.items()},
            asked_alone=counts.asked_alone,
            rejected=counts.rejected,
            queued=self._batcher.queued,
            queue_max=self._queue_max,
            upstream_calls=dict(counts.upstream_calls),
            upstream_in_flight=limiter.in_flight,
            upstream_limit=limiter.limit,
            upstream_breaker_open=self._upstream.breaker_open,
            has_key=self._upstream.has_key,
            deferred_batches=len(self._deferred),
            deferred_requests=self._deferred.requests,
        )
