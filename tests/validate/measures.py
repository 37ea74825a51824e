"""The measures of success, from the sidecar's own statistics, beside what others saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mge_cache import LayerStats, Stats

HIT_RATE, COST_REDUCTION, TIME_REDUCTION = 0.60, 0.30, 0.40
"""The targets."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a sidecar has counted in a namespace up to a moment."""

    hits: int
    lookups: int
    spent_usd: float
    saved_usd: float
    errors: int

    def since(self, before: Account) -> Account:
        """Return what was counted in between."""
        return Account(
            self.hits - before.hits,
            self.lookups - before.lookups,
            self.spent_usd - before.spent_usd,
            self.saved_usd - before.saved_usd,
            self.errors - before.errors,
        )


def account_of(stats: Stats) -> Account:
    """Sum the layers up as ``combined_hit_rate`` does: each look-up counts once."""
    layers = {layer.cache_layer: layer for layer in stats.layers}

    def total(read: str, *names: str) -> float:
        return sum(_number(layers[name], read) for name in names)

    everywhere = ("llm", "rag", "rag_similarity")
    hits = total("total_hits", *everywhere)
    misses = total("total_misses", "llm", "rag")
    return Account(
        hits=int(hits),
        lookups=int(hits + misses),
        spent_usd=total("spent_usd", *everywhere),
        saved_usd=total("saved_usd", *everywhere),
        errors=int(total("total_errors", *everywhere)),
    )


def _number(layer: LayerStats, name: str) -> float:
    value: float = getattr(layer, name)
    return value


@dataclass(frozen=True, slots=True)
class Measured:
    """A plan's run, without and with the cache. ``billed_*`` is the Messages server's account."""

    name: str
    repetition: float
    atoms: int
    bare_s: float
    cached_s: float
    billed_bare_usd: float
    billed_cached_usd: float
    account: Account

    @property
    def hit_rate(self) -> float:
        """Look-ups answered by the cache, of all layers."""
        return self.account.hits / max(1, self.account.lookups)

    @property
    def cost_reduction(self) -> float:
        """What hits saved, of what would have been spent."""
        whole = self.account.saved_usd + self.account.spent_usd
        return self.account.saved_usd / whole if whole else 0.0

    @property
    def billed_reduction(self) -> float:
        """By how much the provider's bill is lower."""
        return 1 - self.billed_cached_usd / self.billed_bare_usd

    @property
    def time_reduction(self) -> float:
        """By how much the run is shorter."""
        return 1 - self.cached_s / self.bare_s

    @property
    def reaches_all(self) -> bool:
        """Whether it reaches all targets."""
        return (
            self.hit_rate >= HIT_RATE
            and self.cost_reduction >= COST_REDUCTION
            and self.time_reduction >= TIME_REDUCTION
        )
