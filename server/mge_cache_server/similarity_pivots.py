"""Which rows can be near a query at all: lists of rows around pivots, and the triangle inequality.

Let p be a unit vector, a pivot, and a(x) the angle between it and a unit vector x. Angles are a
metric on the sphere, so q·x ≥ t means that the angle between q and x is at most arccos t, and

    a(x) ≤ a(q) + arccos t,   that is   p·x ≥ cos(arccos(p·q) + arccos t)

Each pivot has a list of the rows around it, nearest first. A search takes the pivot that is nearest
to its query, and of that pivot's list the rows up to the angle: no other row can be a hit, so the
rest of the index is not even looked at. As a list ends somewhere (it takes memory), a query that is
far from every pivot may need more than its list has; then all rows are scanned. Pivots are centres
of rows, and queries are like rows, so that most queries have one near; any pivot is right.

Distances to pivots: Micó, Oncina, Vidal, *A new version of the nearest-neighbour approximating and
eliminating search algorithm* (1994); a list around each centre: Chávez, Navarro, *A compact space
decomposition for effective metric indexing* (2005), whose lists do not overlap, so that a search
needs many.

Pivots lie in the span of a basis B (``similarity_basis``): p = Bᵀc, and p·x = c·Bx takes few
products. What rounding does: ẑ = fl(Bx) is off by at most δ, so fl(c·ẑ) is off by δ + γ_k, with
|c| ≤ 1 + u; fl(Bᵀc) by γ_k√k, so its product with q by that and γ_d; |p| differs from 1 by η at
most, and the lengths of q and x by μ. ``Pivots.error`` is
more than the sum of these, also by what rounding does to levels. A search takes it off p·q, and off
the least p·x that it derives; its t is lowered by what the lengths may have added to q·x.
"""

# ruff: noqa: RUF002  # the letters of the proof are those of mathematics

from __future__ import annotations

from dataclasses import dataclass
from math import acos, cos, floor, pi
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mge_cache_server.similarity_basis import Floats

    Slots = NDArray[np.uint16]


PIVOT_DIRECTIONS: Final = 192
"""In the span of so many leading directions pivots lie."""

ROUGH_DIRECTIONS: Final = 64
"""In so many a query is compared with all of them."""

PIVOT_SAMPLE_ROWS: Final = 16_384
"""So many rows they are fitted to."""

PIVOTS_ROWS_LEAST: Final = 16_384
"""Below that a scan of all rows takes no longer."""

_PIVOTS_MAX = 1024
_NUMBERS_PER_LISTED = 7
_LISTED_MOST = 160
_LISTED_SURPLUS = 1.3
_LEVELS: Final = 64
_STEP = 1 / 200
_ROWS_PER_PIVOT = 48
_KNOWN_PER_PIVOT = 16
_TRIED_OF = 8
_USEFUL = 0.25
_TRIED_PIVOTS = 4
_TRIED_THRESHOLD = 0.95
_ROUNDS = 5
_AT_ONCE = 256
_LENGTHS = 1.5e-4
"""How much the lengths of two vectors may be of their product: their tolerance, and some."""


class Reach(NamedTuple):
    """Where the rows are that can be hits: in the list of a pivot, to some level."""

    pivots: Pivots
    pivot: int
    level: int


@dataclass(frozen=True, slots=True, eq=False)
class Pivots:
    """Unit vectors, one a row: in coordinates of a basis, and as they are.

    ``rough`` has the first of their coordinates, which tell the few that may be nearest to a query:
    to read all of all pivots takes longer than to look at some more rows.
    """

    vectors: Floats
    points: Floats
    rough: Floats
    cut: float
    """The least cosine with its pivot that a row in its list has."""
    listed: int
    """In so many lists a row is, on average: each costs two bytes."""
    error: float

    @classmethod
    def of(
        cls, vectors: Floats, matrix: Floats, *, cut: float, listed: int, error: float
    ) -> Pivots:
        """Return those with these coordinates in the directions that ``matrix`` has as rows."""
        rough = np.ascontiguousarray(vectors[:, :ROUGH_DIRECTIONS])
        return cls(vectors, vectors @ matrix, rough, cut, listed, error)

    def reach(self, query: Floats, coordinates: Floats, threshold: float) -> Reach | None:
        """Return what a query must look at; None: more than lists have.

        ``coordinates`` are its first ``ROUGH_DIRECTIONS``.
        """
        pivot, cosine = self._nearest(query, coordinates)
        level = floor((self.least(cosine, threshold) - self.cut) / _STEP)
        return Reach(self, pivot, min(level, _LEVELS - 1)) if level >= 0 else None

    def _nearest(self, query: Floats, coordinates: Floats) -> tuple[int, float]:
        """Return a pivot that is near, most often the nearest, and its cosine."""
        rough = self.rough.dot(coordinates)
        near = rough.argpartition(-min(_TRIED_PIVOTS, len(rough)))[-_TRIED_PIVOTS:]
        cosines = self.points.take(near, axis=0).dot(query)
        best = int(cosines.argmax())
        return int(near[best]), float(cosines[best])

    def least(self, cosine: float, threshold: float) -> float:
        """Return the least cosine with a pivot that a hit may have, given that of the query."""
        angle = _angle(cosine - self.error) + _angle(threshold - abs(threshold) * _LENGTHS)
        return cos(min(angle, pi)) - self.error


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """The lists of all pivots, for the first ``rows`` rows of a block (65,536 at most)."""

    pivots: Pivots
    rows: int
    slots: Slots
    """All lists, one after the other, each with the nearest rows first."""
    ends: NDArray[np.int32]
    """For each pivot and level: where in ``slots`` its list ends that goes down to that level."""
    lowest: int
    """The lowest level that all lists have."""

    @property
    def size_bytes(self) -> int:
        """What they take."""
        return self.slots.nbytes + self.ends.nbytes

    def within(self, reach: Reach) -> NDArray[np.intp] | None:
        """Return the slots of the rows that can be hits; None: the lists do not say."""
        if reach.pivots is not self.pivots or reach.level < self.lowest:
            return None
        start = self.ends[reach.pivot - 1, 0] if reach.pivot else 0
        return self.slots[start : self.ends[reach.pivot, reach.level]].astype(np.intp)


def lists_per_row(dimension: int) -> int:
    """Return in how many lists a row of so many numbers may be, on average: each is two bytes."""
    return min(_LISTED_MOST, dimension // _NUMBERS_PER_LISTED)


def fit_pivots(coordinates: Floats, matrix: Floats, rows: int, error: float) -> Pivots | None:
    """Return pivots for an index of so many rows, or None where they would not pay.

    ``coordinates`` are those of a sample of the rows, in the directions that ``matrix`` has as
    rows; ``error`` is what rounding does to a product with a pivot. Spherical k-means (Dhillon,
    Modha, 2001). Whether pivots pay is tried with rows that they were not fitted to.
    """
    listed = lists_per_row(matrix.shape[1])
    if not listed:
        return None
    lengths = np.linalg.norm(coordinates, axis=1, keepdims=True)
    directions = coordinates / np.maximum(lengths, np.float32(1e-6))
    tried, known = coordinates[::_TRIED_OF], np.delete(directions, np.s_[::_TRIED_OF], axis=0)
    count = min(_PIVOTS_MAX, rows // _ROWS_PER_PIVOT, len(known) // _KNOWN_PER_PIVOT)
    vectors = _centres(known, max(1, count))
    cosines = tried @ vectors.T
    last = min(cosines.size, listed * len(tried)) - 1
    cut = float(-np.partition(-cosines.ravel(), last)[last])
    pivots = Pivots.of(vectors, matrix, cut=cut, listed=listed, error=error)
    nearest = cosines.max(axis=1).tolist()
    within = sum(pivots.least(cosine, _TRIED_THRESHOLD) >= cut for cosine in nearest)
    return pivots if within >= _USEFUL * len(tried) else None


def make_lists(pivots: Pivots, before: Lists | None, parts: Iterator[Floats]) -> Lists:
    """Return lists of the rows of some lists, and of those after them.

    ``parts`` yields the coordinates of the latter, some at a time.
    """
    gathered = _Gathered(pivots, before)
    for part in parts:
        for low in range(0, len(part), _AT_ONCE):
            gathered.take(part[low : low + _AT_ONCE])
    return gathered.lists()


class _Gathered:
    """What lists are made of: numbers that say pivot, level (nearest first) and slot, to sort.

    There are never many more of them than pivots say: if there are, the lowest levels go.
    """

    def __init__(self, pivots: Pivots, before: Lists | None) -> None:
        self._pivots = pivots
        self._rows = 0
        self._lowest = 0
        self._found: list[NDArray[np.uint32]] = []
        self._counts = np.zeros(_LEVELS, np.int64)
        if before is not None:
            self._rows, self._lowest = before.rows, before.lowest
            self._add(before)

    def _add(self, before: Lists) -> None:
        ends = before.ends[:, ::-1].ravel()
        sizes = np.diff(ends, prepend=0)
        self._counts += sizes.reshape(-1, _LEVELS).sum(axis=0)[::-1]
        for low in range(0, len(sizes), _LEVELS * _LEVELS):
            high = min(len(sizes), low + _LEVELS * _LEVELS)
            numbers = np.arange(low, high, dtype=np.uint32) << np.uint32(16)
            slots = before.slots[ends[low] - sizes[low] : ends[high - 1]]
            self._found.append(np.repeat(numbers, sizes[low:high]) | slots)

    def take(self, coordinates: Floats) -> None:
        """Take some more rows."""
        cosines = (coordinates @ self._pivots.vectors.T).ravel()
        places = np.flatnonzero(cosines >= self._pivots.cut + self._lowest * _STEP)
        above = cosines[places] - np.float32(self._pivots.cut)
        levels = (above * np.float32(1 / _STEP)).astype(np.int64).clip(0, _LEVELS - 1)
        rows, pivots = np.divmod(places, len(self._pivots.vectors))
        numbers = (pivots * _LEVELS + _LEVELS - 1 - levels << 16) + rows + self._rows
        self._found.append(numbers.astype(np.uint32))
        self._counts += np.bincount(levels, minlength=_LEVELS)
        self._rows += len(coordinates)
        if self._counts.sum() > 2 * self._most(max(self._rows, 4 * _AT_ONCE)):
            self._drop()

    def lists(self) -> Lists:
        """Sort them into lists."""
        if self._counts.sum() > self._most(self._rows):
            self._drop()
        found = np.concatenate(self._found)
        found.sort()
        count = len(self._pivots.vectors) * _LEVELS
        edges = np.arange(1, count + 1, dtype=np.uint64) << np.uint64(16)
        ends = found.searchsorted(edges).astype(np.int32).reshape(-1, _LEVELS)[:, ::-1]
        return Lists(
            self._pivots,
            self._rows,
            found.astype(np.uint16),
            np.ascontiguousarray(ends),
            self._lowest,
        )

    def _most(self, rows: int) -> float:
        return _LISTED_SURPLUS * self._pivots.listed * rows

    def _drop(self) -> None:
        wanted = self._pivots.listed * self._rows
        kept = self._counts[::-1].cumsum()[::-1]
        self._lowest = int((kept > wanted).sum())
        self._counts[: self._lowest] = 0
        highest = _LEVELS - 1 - self._lowest
        self._found = [each[(each >> 16) % _LEVELS <= highest] for each in self._found]


def _centres(directions: Floats, count: int) -> Floats:
    random = np.random.default_rng(0)
    centres = directions[np.sort(random.choice(len(directions), count, replace=False))]
    for _ in range(_ROUNDS):
        nearest = np.concatenate(
            [
                (directions[low : low + _AT_ONCE] @ centres.T).argmax(axis=1)
                for low in range(0, len(directions), _AT_ONCE)
            ]
        )
        order = nearest.argsort(kind="stable")
        owners, starts = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(directions[order], starts, axis=0)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres[owners] = sums / np.maximum(lengths, np.float32(1e-6))
    exact = centres.astype(np.float64)
    exact /= np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-6)
    return exact.astype(np.float32)


def _angle(cosine: float) -> float:
    return acos(max(-1.0, min(1.0, cosine)))
