"""Unit vectors of every unpleasant kind, and the search that an index must agree with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from mge_cache_server.similarity import SimilarityIndex, normalise

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache_server.similarity import Match
    from mge_cache_server.similarity_basis import Floats

KINDS = ("random", "clustered", "duplicated", "mean", "flat", "axes", "opposite", "equal")

kinds = st.sampled_from(KINDS)
dimensions = st.sampled_from((1, 2, 3, 15, 16, 17, 33, 48, 100))
seeds = st.integers(0, 2**32 - 1)
thresholds = st.sampled_from((-1.0, -0.2, 0.0, 0.3, 0.7, 0.9, 0.95, 0.99, 1.0 - 1e-6, 1.0))


def unit(rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Floats:
    """As ``normalise``, but all rows at once."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    found: Floats = (rows / lengths[:, np.newaxis]).astype(np.float32)
    return found


def vectors(kind: str, rows: int, dimension: int, seed: int) -> Floats:
    """Rows of a kind; those of one seed are related, so that there is something to find."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((rows, dimension)) + 1e-9
    if kind == "clustered":
        centres = random.standard_normal((3, dimension))
        noise = centres[random.integers(0, 3, rows)] + 0.2 * noise / np.sqrt(dimension)
    elif kind == "duplicated":
        noise = noise[random.integers(0, max(1, rows // 5), rows)]
    elif kind == "mean":
        noise += 2 * np.sqrt(dimension) * random.standard_normal(dimension)
    elif kind == "flat":
        noise *= np.exp(-np.arange(dimension))  # all but a few directions are nearly empty
    elif kind == "axes":
        noise = np.eye(dimension)[random.integers(0, dimension, rows)] + 1e-4 * noise
    elif kind == "opposite":
        noise = noise[:1] * random.choice((-1.0, 1.0), (rows, 1)) + 1e-3 * noise
    elif kind == "equal":
        noise = np.repeat(noise[:1], rows, axis=0)
    return unit(noise)


def beside(query: Floats, cosine: float, random: np.random.Generator) -> Floats:
    """A unit vector at a cosine of ``query``, as nearly as float32 can say it."""
    other = random.standard_normal(len(query))
    exact = query.astype(np.float64)
    other -= (other @ exact) / (exact @ exact) * exact
    other /= np.sqrt(other @ other)
    return normalise(cosine * exact + np.sqrt(1 - cosine**2) * other)


def key_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def upkeep(index: SimilarityIndex) -> list[str]:
    """Do all that is due; the kinds of what was done."""
    done = []
    while (work := index.due()) is not None:
        work.run()
        index.settle(work)
        done.append(type(work).__name__)
        assert len(done) < 1000, "it does not come to rest"
    return done


class Plain:
    """The model: all products in float64."""

    def __init__(self, *, compact: bool = False) -> None:
        self.rows: dict[bytes, tuple[Floats, float]] = {}
        self._compact = compact

    def add(self, key: bytes, vector: Floats, expires_s: float) -> None:
        kept = vector.astype(np.float16).astype(np.float32) if self._compact else vector
        self.rows[key] = (kept, expires_s)

    def cosine(self, key: bytes, query: Floats) -> float:
        return float(self.rows[key][0].astype(np.float64) @ query.astype(np.float64))

    def best(self, query: Floats, now_s: float, admits: Callable[[bytes], bool]) -> float:
        """The largest cosine of what is live and admitted; minus infinity if nothing is."""
        return max(
            (
                self.cosine(key, query)
                for key, (_, expires_s) in self.rows.items()
                if expires_s > now_s and admits(key)
            ),
            default=-np.inf,
        )

    def check(
        self,
        found: Match | None,
        query: Floats,
        threshold: float,
        *,
        now_s: float = 0.0,
        admits: Callable[[bytes], bool] = lambda _: True,
    ) -> None:
        """The same answer, but for the last bits of a float64."""
        best = self.best(query, now_s, admits)
        if found is None:
            assert best < threshold + 1e-12
            return
        assert best >= threshold - 1e-12
        assert admits(found.key)
        assert self.rows[found.key][1] > now_s
        assert abs(self.cosine(found.key, query) - best) < 1e-12
        assert abs(found.cosine - best) < 1e-12
