"""Latent semantic analysis: an embedder that needs no network, and an exact search over it.

Weaker than a neural model, and of the same kind: texts about the same things get vectors that are
close, and the cache knows nothing else of an embedding.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MODEL = "lsa-stdlib"

_BUCKETS = 4096
_SPARE = 32
_GRAM = 4
_WORD = re.compile(r"[a-z0-9]+")


class Embedder:
    """TF-IDF of hashed words and pieces of words, reduced to ``dimension`` by an SVD.

    The same corpus and seed make the same embedder.
    """

    def __init__(self, corpus: Sequence[str], *, dimension: int = 128, seed: int = 1) -> None:
        counts = np.stack([_count(text) for text in corpus])
        frequency = np.count_nonzero(counts, axis=0)
        self._weights = np.log((1 + len(corpus)) / (1 + frequency)).astype(np.float32)
        rows = _unit(counts * self._weights)
        # A randomised SVD (Halko, Martinsson, Tropp 2011) with one power iteration.
        chance = np.random.default_rng(seed)
        width = min(dimension + _SPARE, *rows.shape)
        sketch = rows @ chance.standard_normal((_BUCKETS, width), dtype=np.float32)
        orthonormal, _ = np.linalg.qr(rows @ (rows.T @ sketch))
        _, _, directions = np.linalg.svd(orthonormal.T @ rows, full_matrices=False)
        self._directions = np.ascontiguousarray(directions[:dimension].T)
        self.rows = _unit(rows @ self._directions)
        """The corpus, embedded: unit vectors."""

    def embed(self, text: str) -> NDArray[np.float32]:
        """Return a unit vector; zero if no word is known."""
        return _unit((_count(text) * self._weights) @ self._directions)


def search(
    rows: NDArray[np.float32], query: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the numbers and cosines of the ``count`` rows that are closest, best first."""
    cosines = rows @ query
    best = np.argsort(-cosines, kind="stable")[:count]
    return best, cosines[best]


def _count(text: str) -> NDArray[np.float32]:
    """Count hashed words and pieces of words, damped."""
    features: Counter[str] = Counter()
    for word in _WORD.findall(text.lower()):
        features[word] += 1
        features.update(word[at : at + _GRAM] for at in range(len(word) - _GRAM))
    counts = np.zeros(_BUCKETS, dtype=np.float32)
    for feature, count in features.items():
        counts[zlib.crc32(feature.encode()) % _BUCKETS] += count
    return np.log1p(counts)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = rows / np.maximum(lengths, np.float32(1e-12))
    return unit
