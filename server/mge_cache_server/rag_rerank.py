"""Re-rank what a similar query retrieved, and certify that the search itself would say the same.

A query q hits the entry of a similar query p, which kept the n best documents for p with their
embeddings. ``rerank`` orders these by q. ``is_certified`` says whether the first k of that order
are provably the k best of the whole index. Pure functions of arrays, for any thread.

**The proof.** All vectors are taken at unit length; |a, b| is their distance √(2 - 2cos). Let R be
the distance of p from its farthest candidate, δ = |p, q|. A document y that is no candidate is at
least R from p. The angle on the sphere is a metric, so ∠(q, y) ≥ ∠(p, y) - ∠(p, q):

    |q, y| ≥ 2 sin(asin(R/2) - asin(δ/2)) =: L        (≥ R - δ, as sin(a - b) ≥ sin a - sin b)

(Schubert, *A Triangle Inequality for Cosine Similarity*, SISAP 2021. With nothing but R and δ known
no bound is better: y may lie on the great circle through p and q.) If the k-th best candidate is
nearer to q than L, then so are all k, and no other document belongs among them.

**What rounding does to it.** The search did not compare cosines but scores that it computed: dot
products or distances, in float32, of vectors whose lengths are nearly 1. Let e bound by how much a
score (a squared distance d² as 1 - d²/2) differs from the cosine; ``score_error`` derives it. Then

    y is no candidate: score(p, y) ≤ score(p, x) for each candidate x,  so |p, y|² ≥ R² - 4e
    y would lose:      score(q, y) < score(q, x) for the k chosen x,    if |q, y|² > |q, x|² + 4e

so 4e is taken from R² and added to the distance of the k-th. What is computed here is computed in
float64 from the float32 numbers, by differences of coordinates (2 - 2cos would cancel near 1); its
own rounding is below 10⁻¹³, and 10⁻¹² is added for it.

**Conditions.** What can be seen here is checked: the candidates have unit length and are in the
order of their cosines to p. The caller vouches for the rest:

- both queries belong to one partition: model, index version and filter are the same, and the index
  has not changed within a version;
- the search was exact, not approximate, by cosine, dot product or Euclidean distance in float32 or
  better, without a least score, and only that order decided (no diversity, no second ranking);
- the candidates are all of its first n, with the embeddings that the index holds;
- the lengths of the other documents, too, are within ``LENGTH_TOLERANCE`` of 1.

"Ties aside": candidates whose cosines differ by less than 2e may stand for each other; a document
from outside never gets that near. Only where p and q are the very same embedding, and the search
would thus repeat itself, may the last candidate and the first document outside be such a tie.
Without over-fetching (n = k) nothing else is certified, as the farthest candidate is itself at
least L from q.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import asin, sin, sqrt
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]

LENGTH_TOLERANCE: Final = 1e-4
"""How far a document's length may be from 1. Unit vectors of a few hundred dimensions that an
index rounded to float16 are within a third of it; what is beyond was not normalised."""

_UNIT_ROUNDOFF = 2.0**-24
_OWN_ERROR = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """The best candidates for a query, best first."""

    order: NDArray[np.intp]
    """Their rows: at most ``k``, fewer if there are fewer candidates."""

    cosines: Doubles
    """Their cosines to the query, in the same order."""

    k: int
    """How many were asked for."""


def rerank(query: Floats, embeddings: Floats, k: int) -> Ranking:
    """Rank the rows of ``embeddings`` by their cosine to ``query``; equal ones as they are stored.

    Neither the query nor a row may be zero or non-finite. The cosines are computed in float64, and
    equal rows get equal ones: some 50 µs for 50 rows of 384 dimensions, in proportion beyond.
    Raises ``ValueError`` for a ``k`` below 1.
    """
    if k < 1:
        raise ValueError("k must be at least 1")
    direction = query.astype(np.float64)
    rows = embeddings.astype(np.float64)
    # Not ``rows @ direction``: BLAS sums equal rows in different orders, which would break ties.
    cosines = np.einsum("ij,j->i", rows, direction)
    cosines /= _lengths(rows) * sqrt(float(direction @ direction))
    order = np.argsort(-cosines, kind="stable")[:k]
    return Ranking(order, cosines[order], k)


def certifiable_radius(cached_query: Floats, embeddings: Floats) -> float | None:
    """Return R, the distance of a query from the farthest of its candidates; None: not certifiable.

    To be kept with the entry, as a float64. ``embeddings`` are the candidates' *as the search
    returned them*, in its order. If the server normalises them, this comes first: whether they were
    of unit length cannot be seen afterwards. It is None if there is no candidate, if a length is
    not 1 within ``LENGTH_TOLERANCE``, or if a candidate is nearer than one before it by more than
    rounding explains: then the order came from something else than these embeddings.
    """
    if not len(embeddings):
        return None
    rows = embeddings.astype(np.float64)
    if not np.all(np.abs(_lengths(rows) - 1) <= LENGTH_TOLERANCE):  # false for NaN, too
        return None
    distances = _distances(cached_query, rows)
    squares = distances**2
    nearer_by = np.max(np.maximum.accumulate(squares) - squares)
    if nearer_by > 4 * score_error(len(cached_query)):
        return None
    return float(np.max(distances))


def is_certified(
    query: Floats,
    embeddings: Floats,
    ranking: Ranking,
    *,
    cached_query: Floats,
    radius: float | None,
    complete: bool = False,
) -> bool:
    """Say whether ``ranking`` is provably the ``ranking.k`` best of the index, ties aside.

    ``embeddings`` are the candidates of ``cached_query`` (of unit length or as they were sent: only
    their direction counts), ``ranking`` is ``rerank(query, embeddings, k)``, and ``radius`` is
    ``certifiable_radius`` of the entry. ``cached_query`` must be the float32 embedding that was
    searched with, not one that a compact index rounded.

    ``complete``: the candidates are known to be *all* documents that the search could return, so
    that re-ranking is the search. It must have been said by whoever searched: a result that is
    shorter than was asked for may as well have been cut at a least score.
    """
    if radius is None:
        return False
    if complete:
        return True
    if len(ranking.order) < ranking.k:
        return False
    if np.array_equal(query, cached_query):
        return True  # the same search; the slack below would deny it where n = k
    slack = 4 * score_error(len(query)) + _OWN_ERROR
    chosen = embeddings[ranking.order].astype(np.float64)
    farthest = float(np.max(_distances(query, chosen)))
    between = float(_distances(query, cached_query[np.newaxis].astype(np.float64))[0])
    return _outside(radius, between, slack) ** 2 > farthest**2 + slack


def score_error(dimension: int) -> float:
    """Return e: by how much a search's score may differ from the cosine of the two directions.

    - Lengths. With |x| = 1 + ε, |ε| ≤ μ, a dot product is off by |εc| ≤ μ. Divided by a query's
      length m within μ of 1, what a Euclidean distance orders by is |x|c - |x|²/2m, off (but for
      a constant) by |ε(c - 1/m) - ε²/2m| ≤ 2μ + 4μ².
    - Float32. With u = 2⁻²⁴ and g = nu / (1 - nu), a dot product of length n is off by at most g,
      in whatever order it is summed (Higham, *Accuracy and Stability of Numerical Algorithms*,
      3.1). A squared distance, computed either way, is off by 4g and counts half; a cosine by its
      product's g and the two lengths' g/2 each: 2g at most, with n + 4 for the few operations after
      the sum, and a tenth more for lengths above 1.
    - A query that was normalised to float32 here was turned by 2u at most: 2⁻²¹ covers it.
    """
    terms = (dimension + 4) * _UNIT_ROUNDOFF
    lengths = 2 * LENGTH_TOLERANCE + 4 * LENGTH_TOLERANCE**2
    return lengths + 2.2 * terms / (1 - terms) + 2.0**-21


def _outside(radius: float, between: float, slack: float) -> float:
    """Return the least distance from the query of a document that is no candidate."""
    reach = sqrt(max(radius**2 - slack, 0.0))
    angle = asin(min(reach / 2, 1.0)) - asin(min(between / 2, 1.0))
    return 2 * sin(max(angle, 0.0))


def _lengths(rows: Doubles) -> Doubles:
    squares: Doubles = np.einsum("ij,ij->i", rows, rows)
    return np.sqrt(squares)


def _distances(query: Floats, rows: Doubles) -> Doubles:
    """Return the distances of a query from some rows, all taken at unit length."""
    direction = query.astype(np.float64)
    direction /= sqrt(float(direction @ direction))
    return _lengths(rows / _lengths(rows)[:, np.newaxis] - direction)
