"""Counts and states for the tests of what people look at."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from mge_cache_server.batch_counts import BatcherStatistics
from mge_cache_server.counts import Counts, LayerCounts
from mge_cache_server.model import LAYERS
from mge_cache_server.statistics import ERROR_OPERATIONS, RagIndexStatistics, Reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CountsByNamespace = dict[str, dict[str, LayerCounts]]


@dataclass(slots=True)
class Parts:
    """Stands for the L1, the store and the epochs."""

    entries: int = 3
    size_bytes: int = 4096
    max_bytes: int = 65536
    evictions: int = 7
    kind: str = "redis"
    available: bool = True
    live: bool = True
    rag_index: RagIndexStatistics = field(default_factory=RagIndexStatistics)
    batcher: BatcherStatistics = field(default_factory=BatcherStatistics)

    def index_statistics(self) -> RagIndexStatistics:
        return self.rag_index

    def statistics(self) -> BatcherStatistics:
        return self.batcher


def layer_counts() -> st.SearchStrategy[LayerCounts]:
    numbers = st.integers(0, 2**40)
    amounts = st.floats(0, 1e6)
    return st.builds(
        LayerCounts,
        hits=numbers,
        misses=numbers,
        writes=numbers,
        invalidations=numbers,
        errors=st.dictionaries(st.sampled_from(ERROR_OPERATIONS), st.integers(1, 999)),
        spent_usd=amounts,
        saved_usd=amounts,
        saved_s=amounts,
        unpriced_writes=numbers,
        computed_s=amounts,
    )


def counts_by_namespace() -> st.SearchStrategy[CountsByNamespace]:
    layers = st.fixed_dictionaries({layer: layer_counts() for layer in LAYERS})
    return st.dictionaries(st.sampled_from(["default", "search", "plans", "a.b_c-1"]), layers)


def counts_of(given: Mapping[str, Mapping[str, LayerCounts]]) -> Counts:
    counts = Counts()
    for namespace, layers in given.items():
        for layer, layer_counts_ in layers.items():
            counts.of(namespace, layer).add(layer_counts_)
    return counts


def reporter_of(
    counts: Counts, parts: Parts | None = None, *, clock: Callable[[], float] = time.monotonic
) -> Reporter:
    state = parts or Parts()
    return Reporter(
        counts,
        l1=state,
        store=state,
        epochs=state,
        rag=state,
        batcher=state,
        version="1.2.3",
        clock=clock,
    )
