"""What a similar hit is worth: a stream of questions through caches of different thresholds.

The documents are questions as well (answers to frequent questions are found by them), the retriever
is the exact product of all embeddings. NumPy is imported here only, after the number of threads has
been set.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mge_cache_server.rag_rerank import certifiable_radius, is_certified, rerank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Floats: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = NDArray[np.intp]

TOP_K = 10
CANDIDATES = 50
NEAR = 8
"""A hit is off if fewer of its ten documents are among the true ten: an overlap below 0.8."""

_BLOCK = 1024
_TIE = 1e-6
_SEED = 20


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and the cached one that it hit: how many of the true ten documents it got."""

    plain: int
    reranked: int
    certified: bool


@dataclass(slots=True)
class Tally:
    """The hits at one threshold."""

    threshold: float
    queries: int
    hits: int = 0
    plain_off: int = 0
    reranked_off: int = 0
    reranked_different: int = 0
    certified: int = 0
    certified_different: int = 0

    def add(self, pair: Pair) -> None:
        """Count a hit."""
        self.hits += 1
        self.plain_off += pair.plain < NEAR
        self.reranked_off += pair.reranked < NEAR
        self.reranked_different += pair.reranked < TOP_K
        self.certified += pair.certified
        self.certified_different += pair.certified and pair.reranked < TOP_K

    def counts(self) -> dict[str, float]:
        """Return all fields by their names."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Queries in their order, and for each the best documents with their cosines."""

    documents: Floats
    queries: Floats
    found: Rows
    cosines: Floats


def load(path: Path, *, documents: int, queries: int) -> tuple[Floats, Floats]:
    """Return the embeddings of documents and of queries, unit float32, shuffled as always."""
    stored = np.load(path, mmap_mode="r")
    order = np.random.default_rng(_SEED).permutation(len(stored))[: documents + queries]
    rows = np.asarray(stored[order], dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[:documents], rows[documents:]


def retrieve(documents: Floats, queries: Floats, progress: Callable[[str], None]) -> Stream:
    """Find the best documents for each query, exactly."""
    found, cosines = [], []
    for start in range(0, len(queries), _BLOCK):
        progress(f"retrieving for query {start:,} of {len(queries):,}")
        scores = queries[start : start + _BLOCK] @ documents.T
        best = np.argpartition(-scores, CANDIDATES, axis=1)[:, :CANDIDATES]
        of_best = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-of_best, axis=1, kind="stable")
        found.append(np.take_along_axis(best, order, axis=1))
        cosines.append(np.take_along_axis(of_best, order, axis=1))
    return Stream(documents, queries, np.vstack(found), np.vstack(cosines))


def run_caches(
    stream: Stream, thresholds: tuple[float, ...], progress: Callable[[str], None]
) -> list[Tally]:
    """Let the stream pass caches that store each miss, one for each threshold."""
    tallies = [Tally(threshold, len(stream.queries)) for threshold in thresholds]
    stored = [np.zeros(len(stream.queries), dtype=np.bool_) for _ in thresholds]
    for query, earlier, cosines in _neighbours(stream.queries, min(thresholds), progress):
        pairs: dict[int, Pair] = {}  # several thresholds can lead to the same cached query
        for tally, is_stored in zip(tallies, stored, strict=True):
            eligible = is_stored[earlier] & (cosines >= tally.threshold)
            if not eligible.any():
                is_stored[query] = True
                continue
            cached = int(earlier[np.argmax(np.where(eligible, cosines, -1))])
            if cached not in pairs:
                pairs[cached] = _compare(stream, query, cached)
            tally.add(pairs[cached])
    return tallies


def _neighbours(
    queries: Floats, least: float, progress: Callable[[str], None]
) -> Iterator[tuple[int, Rows, Floats]]:
    """Yield each query with those before it whose cosine is at least ``least``, and the cosines."""
    for start in range(0, len(queries), _BLOCK):
        progress(f"query {start:,} of {len(queries):,}")
        block = queries[start : start + _BLOCK]
        scores = block @ queries[: start + len(block)].T
        for position, row in enumerate(scores):
            earlier = np.flatnonzero(row[: start + position] >= least)
            yield start + position, earlier, row[earlier]


def _compare(stream: Stream, query: int, cached: int) -> Pair:
    """Compare what the cached query's entry gives with what the retriever gives, ties aside."""
    embedding, cached_query = stream.queries[query], stream.queries[cached]
    candidates = stream.documents[stream.found[cached]]
    least = stream.cosines[query, TOP_K - 1] - _TIE
    ranking = rerank(embedding, candidates, TOP_K)
    return Pair(
        plain=int(np.count_nonzero(candidates[:TOP_K] @ embedding >= least)),
        reranked=int(np.count_nonzero(ranking.cosines >= least)),
        certified=is_certified(
            *(embedding, candidates, ranking),
            cached_query=cached_query,
            radius=certifiable_radius(cached_query, candidates),
        ),
    )
