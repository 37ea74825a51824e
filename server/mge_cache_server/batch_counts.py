"""What the batcher counts, and what is reported of it. Belongs to the event loop's thread."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from mge_cache_server.generation import Strategy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mge_cache_server.model import Usage

BATCH_OUTCOMES = ("ok", "partly", "failed", "cancelled")
"""How batches end: with answers to all requests, to some, to none, or given up by all callers."""

OUTCOMES = ("ok", "rate_limited", "overloaded", "failed", "timed_out", "cancelled")
"""How calls on Anthropic end."""

_MODELS_MAX = 32
"""Models that are told apart: a caller can make names up."""


class Timings(Protocol):
    """Keeps durations, in seconds, and sizes."""

    def batch(self, size: int) -> None:
        """Of a batch that was sent."""

    def waited(self, seconds: float) -> None:
        """Until a request's batch was closed."""

    def first_delta(self, seconds: float) -> None:
        """From a call to the first part of its text."""

    def upstream(self, seconds: float) -> None:
        """From a call to the end of its answer."""


def _by_strategy() -> dict[Strategy, int]:
    return dict.fromkeys(Strategy, 0)


def _by_strategy_and_outcome() -> dict[tuple[Strategy, str], int]:
    return {(strategy, outcome): 0 for strategy in Strategy for outcome in BATCH_OUTCOMES}


def _by_outcome() -> dict[str, int]:
    return dict.fromkeys(OUTCOMES, 0)


@dataclass(slots=True)
class ModelUse:
    """What was bought of a model."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float = 0.0


@dataclass(slots=True)
class Mean:
    """A mean as it grows."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """Take one more in."""
        self.total += value
        self.count += 1

    @property
    def value(self) -> float:
        """The mean; 0 of nothing."""
        return self.total / self.count if self.count else 0.0


@dataclass(slots=True)
class BatchCounts:
    """Counts since the start. ``timings`` gets each duration, too."""

    timings: Timings

    batches: dict[Strategy, int] = field(default_factory=_by_strategy)
    requests: int = 0
    asked_alone: int = 0
    rejected: int = 0
    upstream_calls: dict[str, int] = field(default_factory=_by_outcome)
    outcomes: dict[tuple[Strategy, str], int] = field(default_factory=_by_strategy_and_outcome)
    models: dict[str, ModelUse] = field(default_factory=dict)
    wait: Mean = field(default_factory=Mean)
    first_delta: Mean = field(default_factory=Mean)
    upstream: Mean = field(default_factory=Mean)

    def sent(self, strategy: Strategy, waits_s: Sequence[float]) -> None:
        """Count a batch that was sent, whose requests waited so long."""
        self.batches[strategy] += 1
        self.requests += len(waits_s)
        self.timings.batch(len(waits_s))
        for seconds in waits_s:
            self.wait.add(seconds)
            self.timings.waited(seconds)

    def first_delta_after(self, seconds: float) -> None:
        """Count a call whose text began."""
        self.first_delta.add(seconds)
        self.timings.first_delta(seconds)

    def answered_after(self, seconds: float) -> None:
        """Count a call whose answer is complete."""
        self.upstream.add(seconds)
        self.timings.upstream(seconds)

    def bought(self, model: str, usage: Usage, cost_usd: float) -> None:
        """Count what an answer took."""
        if model not in self.models and len(self.models) >= _MODELS_MAX:
            model = "other"
        use = self.models.setdefault(model, ModelUse())
        use.input_tokens += usage.input_tokens
        use.output_tokens += usage.output_tokens
        use.cache_read_tokens += usage.cache_read_tokens
        use.cache_write_tokens += usage.cache_write_tokens
        use.cost_usd += cost_usd


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
    batches_by_outcome: Mapping[str, int] = field(default_factory=dict)
    outcomes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By strategy and outcome."""
    mean_wait_seconds: float = 0.0
    mean_first_delta_seconds: float = 0.0
    mean_upstream_seconds: float = 0.0
    models: Mapping[str, ModelUse] = field(default_factory=dict)
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
            batches_by_outcome={
                outcome: sum(counts.outcomes[each, outcome] for each in Strategy)
                for outcome in BATCH_OUTCOMES
            },
            outcomes={(each.value, name): n for (each, name), n in counts.outcomes.items()},
            mean_wait_seconds=counts.wait.value,
            mean_first_delta_seconds=counts.first_delta.value,
            mean_upstream_seconds=counts.upstream.value,
            models={model: replace(use) for model, use in counts.models.items()},
            deferred_batches=len(self._deferred),
            deferred_requests=self._deferred.requests,
        )
