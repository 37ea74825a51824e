"""The one source of counts: Prometheus, REST and ``Stats`` all read from here.

Counts are kept by namespace (a namespace's statistics are nobody else's business) and by layer.
Everything here belongs to the event loop's thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mge_cache_server.model import LAYERS

if TYPE_CHECKING:
    from collections.abc import Iterable

_UNPRICED_MODELS_MAX = 32
_PAYMENTS_MAX = 4096


@dataclass(slots=True)
class LayerCounts:
    """Counts of one layer since the start. Money in US dollars, time in seconds."""

    hits: int = 0
    misses: int = 0
    writes: int = 0
    invalidations: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    spent_usd: float = 0.0
    saved_usd: float = 0.0
    saved_s: float = 0.0
    unpriced_writes: int = 0
    computed_s: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Hits among all look-ups; 0 before the first."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0

    @property
    def cost_reduction(self) -> float:
        """The saved share of what would have been spent without the cache; 0 if that is 0."""
        total = self.saved_usd + self.spent_usd
        return self.saved_usd / total if total else 0.0

    def error(self, operation: str) -> None:
        """Count a failure of the store in ``operation`` (one of a fixed few names)."""
        self.errors[operation] = self.errors.get(operation, 0) + 1

    def add(self, other: LayerCounts) -> None:
        """Add the counts of ``other`` to these."""
        self.hits += other.hits
        self.misses += other.misses
        self.writes += other.writes
        self.invalidations += other.invalidations
        self.spent_usd += other.spent_usd
        self.saved_usd += other.saved_usd
        self.saved_s += other.saved_s
        self.unpriced_writes += other.unpriced_writes
        self.computed_s += other.computed_s
        for operation, count in other.errors.items():
            self.errors[operation] = self.errors.get(operation, 0) + count


class Counts:
    """All counts of a sidecar."""

    def __init__(self) -> None:
        self._by_namespace: dict[str, dict[str, LayerCounts]] = {}
        self._unpriced_models: set[str] = set()
        self._payments: dict[bytes, None] = {}

    def of(self, namespace: str, layer: str) -> LayerCounts:
        """Return the live counts of a layer in a namespace; the caller may add to them."""
        layers = self._by_namespace.get(namespace)
        if layers is None:
            layers = self._by_namespace[namespace] = {name: LayerCounts() for name in LAYERS}
        return layers[layer]

    def total(self, layer: str, namespace: str = "") -> LayerCounts:
        """Return a copy of a layer's counts in ``namespace``; if empty, summed over all."""
        chosen: Iterable[dict[str, LayerCounts]]
        if namespace:
            known = self._by_namespace.get(namespace)
            chosen = () if known is None else (known,)
        else:
            chosen = self._by_namespace.values()
        result = LayerCounts()
        for layers in chosen:
            result.add(layers[layer])
        return result

    def is_new_payment(self, token: bytes) -> bool:
        """Whether a lease's answer comes for the first time; without a token, always.

        A client library that repeats a call has not paid twice. The last 4096 are remembered.
        """
        if not token:
            return True
        if token in self._payments:
            return False
        self._payments[token] = None
        if len(self._payments) > _PAYMENTS_MAX:
            del self._payments[next(iter(self._payments))]
        return True

    def unpriced(self, model: str) -> None:
        """Remember a model that has no known price; at most 32 of them."""
        if len(self._unpriced_models) < _UNPRICED_MODELS_MAX:
            self._unpriced_models.add(model)

    @property
    def unpriced_models(self) -> tuple[str, ...]:
        """Models without a known price, sorted."""
        return tuple(sorted(self._unpriced_models))
