"""Corpora of unit vectors, what is searched in them, and what the RAG cache makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, sin
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from mge_cache_server.rag_rerank import (
    LENGTH_TOLERANCE,
    Ranking,
    certifiable_radius,
    is_certified,
    rerank,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import DrawFn

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]


def unit(vectors: NDArray[np.floating]) -> Floats:
    exact = vectors.astype(np.float64)
    found: Floats = (exact / np.linalg.norm(exact, axis=-1, keepdims=True)).astype(np.float32)
    return found


def cosines(query: Floats, rows: Floats) -> Doubles:
    """By another way than the module's."""
    exact_query, exact = query.astype(np.float64), rows.astype(np.float64)
    products = (exact * exact_query).sum(axis=1)
    found: Doubles = products / np.linalg.norm(exact, axis=1) / np.linalg.norm(exact_query)
    return found


def by_cosine(query: Floats, rows: Floats) -> NDArray[np.floating]:
    return cosines(query, rows)


def by_product(query: Floats, rows: Floats) -> NDArray[np.floating]:
    return rows @ query


def by_difference(query: Floats, rows: Floats) -> NDArray[np.floating]:
    found: Floats = -np.square(rows - query).sum(axis=1)
    return found


def by_expansion(query: Floats, rows: Floats) -> NDArray[np.floating]:
    """The squared distance as most indexes compute it."""
    found: Floats = 2 * (rows @ query) - np.square(rows).sum(axis=1) - query @ query
    return found


SCORES: list[Callable[[Floats, Floats], NDArray[np.floating]]] = [
    *(by_cosine, by_product, by_difference, by_expansion)
]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A corpus, a cached query and a new one. ``search`` finds the best by one of the scores."""

    corpus: Floats
    cached_query: Floats
    query: Floats
    score: Callable[[Floats, Floats], NDArray[np.floating]]
    candidates: int
    k: int

    def search(self, query: Floats, n: int) -> NDArray[np.intp]:
        return np.argsort(-self.score(query, self.corpus), kind="stable")[:n]

    def answer(self) -> tuple[NDArray[np.intp], Ranking, bool]:
        """What the cache makes of the entry: the candidates, their ranking, the certificate."""
        found = self.search(self.cached_query, self.candidates)
        embeddings = self.corpus[found]
        ranking = rerank(self.query, embeddings, self.k)
        certified = is_certified(
            self.query,
            embeddings,
            ranking,
            cached_query=self.cached_query,
            radius=certifiable_radius(self.cached_query, embeddings),
        )
        return found, ranking, certified


def random_corpus(rng: np.random.Generator, rows: int, dimension: int) -> Floats:
    return unit(rng.standard_normal((rows, dimension)))


def clustered_corpus(rng: np.random.Generator, rows: int, dimension: int) -> Floats:
    centres = unit(rng.standard_normal((3, dimension)))[rng.integers(3, size=rows)]
    spread = rng.choice([1e-4, 1e-2, 0.3])
    return unit(centres + spread * rng.standard_normal((rows, dimension)))


def duplicated_corpus(rng: np.random.Generator, rows: int, dimension: int) -> Floats:
    return random_corpus(rng, max(2, rows // 5), dimension)[
        rng.integers(max(2, rows // 5), size=rows)
    ]


def uneven_corpus(rng: np.random.Generator, rows: int, dimension: int) -> Floats:
    """Lengths as far from 1 as they may be."""
    lengths = rng.choice([1 - 0.99 * LENGTH_TOLERANCE, 1 + 0.99 * LENGTH_TOLERANCE], size=(rows, 1))
    found: Floats = (clustered_corpus(rng, rows, dimension) * lengths).astype(np.float32)
    return found


CORPORA = [random_corpus, clustered_corpus, duplicated_corpus, uneven_corpus]


@st.composite
def scenes(draw: DrawFn) -> Scene:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dimension = draw(st.sampled_from([2, 3, 8, 33, 384]))
    rows = draw(st.integers(2, 150))
    corpus = draw(st.sampled_from(CORPORA))(rng, rows, dimension)
    # Near a document, as queries are; of a random one in many dimensions, everything is far.
    start = corpus[0] + rng.standard_normal(dimension) * draw(st.sampled_from([0.0, 0.01, 1.0]))
    cached_query = unit(start)
    step = draw(st.sampled_from([0.0, 1e-7, 1e-4, 1e-2, 0.1, 1.0])) / np.sqrt(dimension)
    query = unit(cached_query + step * rng.standard_normal(dimension))
    candidates = draw(st.integers(1, rows))
    k = draw(st.integers(1, candidates))
    return Scene(corpus, cached_query, query, draw(st.sampled_from(SCORES)), candidates, k)


@st.composite
def near_misses(draw: DrawFn) -> Scene:
    """On one circle: a document outside exactly where the bound has it, the k-th just beside it."""
    dimension = draw(st.sampled_from([2, 3, 384]))
    radius = draw(st.floats(0.05, 1.5))
    turned = draw(st.floats(0.0, 0.9)) * radius
    near = draw(st.sampled_from([0.0, 1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, -1e-9, -1e-5, -1e-3]))
    outside = draw(st.sampled_from([0.0, 1e-9, 1e-7, 1e-5]))
    k = draw(st.integers(1, 5))
    reach = radius - turned  # from the query to the document outside, as an angle
    chosen = [
        turned - min(max(reach - near, 0.0) * part / k, turned + radius) for part in range(1, k + 1)
    ]
    filling = [-radius + turned * part / 4 for part in range(4)]
    angles = [*chosen, *filling, radius + outside, radius + outside, -radius - 2 * outside]
    plane = np.zeros((len(angles) + 2, dimension))
    for row, angle in enumerate([0.0, turned, *angles]):
        plane[row, 0], plane[row, -1] = cos(angle), sin(angle)
    # Mirrored, so that all coordinates take part in the rounding.
    mirror = unit(np.random.default_rng(k).standard_normal(dimension)).astype(np.float64)
    lengths = draw(st.sampled_from([0.0, 0.99])) * LENGTH_TOLERANCE
    vectors = unit(plane - 2 * np.outer(plane @ mirror, mirror) / (mirror @ mirror))
    corpus = (
        vectors[2:] * (1 + lengths * np.where(np.arange(len(angles)) < k, -1, 1))[:, np.newaxis]
    )
    score = draw(st.sampled_from(SCORES))
    candidates = k + len(filling)
    return Scene(corpus.astype(np.float32), vectors[0], vectors[1], score, candidates, k)


def easy(rng: np.random.Generator, *, candidates: int, step: float) -> Scene:
    """What caches see: queries near each other, documents all around, 10 of them asked for."""
    corpus = random_corpus(rng, 2000, 24)
    cached_query = random_corpus(rng, 1, 24)[0]
    query = unit(cached_query + step * random_corpus(rng, 1, 24)[0])
    return Scene(corpus, cached_query, query, by_product, candidates, 10)
