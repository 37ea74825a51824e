"""Upper bounds of cosines from a few coordinates: the basis, its fit, and what rounding can do.

Let q and x be unit vectors, B a matrix of k orthonormal directions, z = Bx and ρ = √(|x|² − |z|²)
the length of what B leaves of x. Cauchy and Schwarz say of what is left that

    q·x ≤ z_q·z_x + ρ_q ρ_x

so a row whose bound is below the threshold cannot be a hit, whatever B is. B is fitted to the rows
(the leading directions of their uncentred second moment, so that a common mean is caught by the
first one), and only the speed depends on how well.

What rounding does to the bound. With u = 2⁻²⁴ and γ_n = nu / (1 − nu), a float32 dot product of
length n is off by at most γ_n|a||b| in whatever order it is summed (Higham, *Accuracy and Stability
of Numerical Algorithms*, 3.1). Let ẑ be the computed z, ‖BBᵀ − I‖ ≤ η, and the lengths of q and x
at most 1 + μ. Then |ẑ − Bx| ≤ δ = γ_d √k (1 + η)(1 + μ). Write x = Bᵀẑ_x + r_x, q likewise:

    q·x = ẑ_q·BBᵀẑ_x + Bᵀẑ_q·r_x + Bᵀẑ_x·r_q + r_q·r_x
    |B r_x| = |(Bx − ẑ_x) − (BBᵀ − I)ẑ_x| ≤ δ + η|ẑ_x|
    |r_x|²  = |x|² − |ẑ_x|² + 2ẑ_x·(ẑ_x − Bx) + ẑ_x·(BBᵀ − I)ẑ_x ≤ |x|² − |ẑ_x|² + 2δ|ẑ_x| + η|ẑ_x|²

So ρ² is increased by 2δ + η and by the rounding of |x|² − |ẑ|² (``Rounding.residual``), and the
bound by 3η + 2δ and by the rounding of the sums that make it up (``Rounding.bound``); a factor of
1.1 covers |ẑ| and |x| above 1, which are at most 1.001. For 384 dimensions that is 3·10⁻⁴, for 1536
1.1·10⁻³: it costs five in a hundred more survivors and buys a proof.

The second level keeps its coordinates in bytes: c = ⌊sz + ½⌋ with s = 124, which is off by at most
1/2s in each (10⁻⁴ of it more covers the rounding of sz). Replacing them by c/s takes at most
Σ|ẑ_q| / 2s from the bound, the sum being over these coordinates, which ``Look.slack`` gives back.
The lengths are rounded to the side on which the bound grows. 124 leaves room for what is a little
longer than 1.
"""

# ruff: noqa: RUF002  # the letters of the proof are those of mathematics

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mge_cache_server.similarity_pivots import Pivots, Reach, fit_pivots, lists_per_row

Floats: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = NDArray[np.float32] | NDArray[np.float16]
Codes: TypeAlias = NDArray[np.int8]

SAMPLE_ROWS: Final = 8192
"""How many rows a fit looks at: more do not make a better basis."""

LENGTH_TOLERANCE: Final = 1e-4
"""How far the squared length of a given vector may be from 1; float16 may add 10⁻³."""

# How many directions a prefix has at its first level, and at both. With the length of the rest the
# first level makes a multiple of four columns, which a product takes together. What lists name is
# little, and is soon computed in full: more columns save the second level.
_FEW = (15, 35)
_SOME = (19, 42)
_MANY = (31, 63)
_STEPS = np.float32(124)
_CODE_ERROR = 0.5 + 1e-4  # in steps; with the rounding of what is compared with it
_DOMINANT = 0.5
_OVERSAMPLING = 8
_ROUNDS = 4
_UNIT_ROUNDOFF = 2.0**-24


@dataclass(frozen=True, slots=True)
class Rounding:
    """What must be added to be above the true value, whatever was rounded on the way."""

    residual: float
    """To the squared length of a residual."""

    bound: float
    """To a bound, at either level."""


@dataclass(frozen=True, slots=True)
class Look:
    """A query as a basis sees it; the products with a ``Prefix`` are the bounds of its rows."""

    first: Floats
    """Of ``basis.first + 1`` numbers."""

    second: Floats
    """Of ``basis.directions - basis.first + 2`` numbers."""

    slack: float
    """What bytes may have taken from the second bound."""

    reach: Reach | None
    """Where alone hits can be, if that is known."""


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """Orthonormal directions (one a row), the first ``first`` of which make the first level."""

    matrix: Floats
    first: int
    directions: int
    """How many make both levels; the rest is there for the pivots."""
    rounding: Rounding
    pivots: Pivots | None = None

    def project(self, rows: Floats) -> tuple[Floats, Codes]:
        """Return what a prefix keeps of rows: for the first level, and for the second.

        The first are n × (first + 1): coordinates and the length that they leave. The second are
        n × (directions − first + 2) in bytes: the other coordinates, the length that all leave, and
        the first length again: with its sign turned in the query, it takes the first level's
        residual out of the first bound.
        """
        coordinates = rows @ self.matrix[: self.directions].T
        squares = np.einsum("ij,ij->i", rows, rows)
        head, tail = coordinates[:, : self.first], coordinates[:, self.first :]
        left_by_first = squares - np.einsum("ij,ij->i", head, head)
        left_by_all = left_by_first - np.einsum("ij,ij->i", tail, tail)
        rho_first, rho_all = (
            np.sqrt(np.maximum(left, 0) + np.float32(self.rounding.residual))
            for left in (left_by_first, left_by_all)
        )
        codes = np.empty((len(rows), tail.shape[1] + 2), np.int8)
        codes[:, :-2] = np.rint(tail * _STEPS)
        codes[:, -2] = np.ceil(rho_all * _STEPS)
        codes[:, -1] = np.floor(rho_first * _STEPS)
        return np.column_stack((head, rho_first)), codes

    def coordinates(self, rows: Rows) -> Floats:
        """Return the coordinates of rows in all directions, as pivots take them."""
        coordinates: Floats = np.asarray(rows, np.float32) @ self.matrix.T
        return coordinates

    def with_pivots(self, coordinates: Floats, rows: int) -> Basis:
        """Return the same basis with pivots for so many rows, if they pay.

        ``coordinates`` are those of a sample of the rows.
        """
        pivots = fit_pivots(coordinates, self.matrix, rows, _pivot_error(self.matrix))
        first, wanted = (self.first, self.directions) if pivots is None else _SOME
        return Basis(
            self.matrix if pivots else np.ascontiguousarray(self.matrix[:wanted]),
            min(first, len(self.matrix)),
            min(wanted, len(self.matrix)),
            _rounding(self.matrix[:wanted]),
            pivots,
        )

    def look(self, query: Floats, threshold: float) -> Look:
        """Return what the bounds of all rows for this unit vector are computed with."""
        split = self.first
        both = np.empty(self.directions + 3, np.float32)
        rough = self.pivots.rough.shape[1] if self.pivots else 0
        coordinates = self.matrix[: max(rough, self.directions)].dot(query)
        head, tail = coordinates[:split], coordinates[split : self.directions]
        left_by_first = float(query.dot(query)) - float(head.dot(head))
        tail_square = float(tail.dot(tail))
        left_by_all = left_by_first - tail_square
        both[:split] = head
        both[split + 1 : -2] = tail
        both[split] = sqrt(max(left_by_first, 0.0) + self.rounding.residual)
        both[-2] = sqrt(max(left_by_all, 0.0) + self.rounding.residual)
        both[-1] = -both[split]
        second = both[split + 1 :]
        second /= _STEPS
        slack = float(1.001 * _CODE_ERROR / _STEPS) * sqrt(len(tail) * tail_square)
        reach = self.pivots.reach(query, coordinates[:rough], threshold) if self.pivots else None
        return Look(both[: split + 1], second, slack, reach)


def plain_rounding(dimension: int) -> float:
    """Return by how much a float32 product of two unit vectors may be below their cosine."""
    return 1.1 * _gamma(dimension) + 1e-6


def fit(sample: Rows, more: int = 0) -> Basis:
    """Return the basis that fits a sample of unit vectors (one a row, one at least).

    ``more``: how many directions it shall have at least, for ``with_pivots``. Pure, and the same
    for the same sample: may run in any thread; takes some 20 ms for 8,192 rows of 384 dimensions,
    ten times as long with 192 directions. Subspace iteration: Halko, Martinsson, Tropp (2011),
    algorithm 4.4.
    """
    part = np.asarray(sample, dtype=np.float32)
    first, wanted = _FEW
    directions, energy = _leading(part, max(wanted, more))
    if energy > _DOMINANT:
        # A common mean: what tells rows apart lies in the directions after it.
        first, wanted = _MANY
        if more < wanted:
            directions, _ = _leading(part, wanted)
    matrix = np.ascontiguousarray(directions.T, dtype=np.float32)
    wanted = min(wanted, len(matrix))
    return Basis(matrix, min(first, wanted), wanted, _rounding(matrix[:wanted]))


def prefix_bytes(dimension: int, *, compact: bool) -> int:
    """Return what is kept of a row for the bounds, and in lists."""
    first, both = _FEW if compact else _SOME
    return 4 * (first + 1) + both - first + 2 + (0 if compact else 2 * lists_per_row(dimension) + 4)


def _leading(rows: Floats, wanted: int) -> tuple[NDArray[np.float64], float]:
    """Return the leading directions as columns, and the first one's share of the energy."""
    dimension = rows.shape[1]
    width = min(dimension, wanted + _OVERSAMPLING)
    span: NDArray[np.float64] = np.random.default_rng(0).standard_normal((dimension, width))
    for _ in range(_ROUNDS):
        span, _ = np.linalg.qr((rows.T @ (rows @ span.astype(np.float32))).astype(np.float64))
    image = (rows @ span.astype(np.float32)).astype(np.float64)
    energies, turn = np.linalg.eigh(image.T @ image)
    directions = (span @ turn)[:, ::-1][:, : min(dimension, wanted)]
    return directions, float(energies[-1]) / len(rows)


def _rounding(matrix: Floats) -> Rounding:
    directions, dimension = matrix.shape
    exact = matrix.astype(np.float64)
    eta = float(np.linalg.norm(exact @ exact.T - np.eye(directions)))
    delta = _gamma(dimension) * sqrt(directions)
    sums = _gamma(directions + 6)
    return Rounding(
        residual=1.1 * (2 * delta + eta + _gamma(dimension) + 2 * sums),
        bound=1.1 * (3 * eta + 2 * delta + 6 * sums) + 1e-6,
    )


def _pivot_error(matrix: Floats) -> float:
    """Return by how much a product with a pivot may be off; see ``similarity_pivots``."""
    directions, dimension = matrix.shape
    exact = matrix.astype(np.float64)
    eta = float(np.linalg.norm(exact @ exact.T - np.eye(directions)))
    sums = _gamma(dimension) * sqrt(directions) + _gamma(directions) * (1 + sqrt(directions))
    return 1.1 * (sums + eta) + 2e-4


def _gamma(length: int) -> float:
    return length * _UNIT_ROUNDOFF / (1 - length * _UNIT_ROUNDOFF)
