"""Embeddings as the RAG cache needs them: from bytes, compared, ranked.

This module imports numpy: import it at first use, after ``rag_partitions.Partitions.ready``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mge_cache_server.rag_rerank import certifiable_radius, is_certified, rerank
from mge_cache_server.similarity import are_unit_vectors, normalise

if TYPE_CHECKING:
    from mge_cache_server.model import Retrieval
    from mge_cache_server.similarity_basis import Floats


class Ranked(NamedTuple):
    """Which of a retrieval's documents are best for another query, best first."""

    order: list[int]
    cosines: list[float]
    certified: bool


def unit(packed: bytes) -> Floats:
    """Read an embedding, at unit length; raises ValueError if it is zero or not finite."""
    return normalise(np.frombuffer(packed, "<f4"))


def matrix(packed: bytes, dimension: int) -> Floats:
    """Read embeddings, a row each."""
    return np.frombuffer(packed, "<f4").reshape(-1, dimension)


def have_direction(rows: Floats) -> bool:
    """Say whether all numbers are finite, and no row is zero."""
    return bool(np.isfinite(rows).all() and rows.any(axis=1).all())


def of_unit_length(rows: Floats) -> list[int]:
    """Return the places of the rows that an index takes."""
    return are_unit_vectors(rows).nonzero()[0].tolist()


def cosine(unit_vector: Floats, packed: bytes) -> float:
    """Return the cosine of two unit vectors, computed in float64."""
    other = np.frombuffer(packed, "<f4").astype(np.float64)
    return min(1.0, float(other @ unit_vector.astype(np.float64)))


def radius(query: Floats, documents: Floats) -> float | None:
    """Return how far an exact search has seen: see ``rag_rerank.certifiable_radius``."""
    return certifiable_radius(query, documents)


def ranked(query: Floats, found: Retrieval, top_k: int) -> Ranked:
    """Rank a retrieval's documents, which have embeddings, by their cosine to the query."""
    documents = matrix(found.embeddings, len(query))
    ranking = rerank(query, documents, top_k)
    cached = np.frombuffer(found.embedding, "<f4")
    certified = is_certified(query, documents, ranking, cached_query=cached, radius=found.radius)
    return Ranked(ranking.order.tolist(), ranking.cosines.tolist(), certified)
