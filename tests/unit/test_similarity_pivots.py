"""Lists of rows around pivots leave out no row that can be a hit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mge_cache_server import similarity_pivots, similarity_upkeep, similarity_work
from mge_cache_server.similarity import SimilarityIndex
from mge_cache_server.similarity_basis import fit
from mge_cache_server.similarity_pivots import Lists, Pivots, Reach, fit_pivots, make_lists
from tests.unit.scene import Clock
from tests.unit.vectors import Plain, beside, key_of, kinds, seeds, unit, upkeep, vectors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mge_cache_server.similarity_basis import Basis, Floats

ERROR = 3e-4
DIMENSION = 48

thresholds = st.sampled_from((-0.9, 0.0, 0.5, 0.9, 0.95, 0.999, 1.0))


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    """Lists are worth their while from some ten thousand rows on: here, from some hundred."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity_pivots, "_NUMBERS_PER_LISTED", 2)
        patch.setattr(similarity_work, "PIVOTS_ROWS_LEAST", 500)
        patch.setattr(similarity_upkeep, "_LISTED_LEAST", 200)
        patch.setattr(similarity_upkeep, "_LISTED_AT_ONCE", 50)
        yield


def some_pivots(basis: Basis, rows: Floats, count: int, cut: float, listed: int = 100) -> Pivots:
    """Not fitted: some rows, and some directions in which nothing is."""
    random = np.random.default_rng(len(rows))
    chosen = random.choice(len(rows), count // 2, replace=False)
    noise = random.standard_normal((count - count // 2, len(basis.matrix)), dtype=np.float32)
    points = np.concatenate((basis.coordinates(rows[chosen]), noise)).astype(np.float64)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    vectors = points.astype(np.float32)
    return Pivots.of(vectors, basis.matrix, cut=cut, listed=listed, error=ERROR)


def reached(pivots: Pivots, basis: Basis, query: Floats, threshold: float) -> Reach | None:
    coordinates = basis.coordinates(query[np.newaxis])[0, : pivots.rough.shape[1]]
    return pivots.reach(query, coordinates, threshold)


def listed(pivots: Pivots, basis: Basis, rows: Floats, stops: tuple[int, ...]) -> Lists:
    found: Lists | None = None
    for stop in stops:
        start = found.rows if found else 0
        found = make_lists(pivots, found, iter([basis.coordinates(rows[start:stop])]))
    assert found is not None
    return found


@settings(max_examples=60, deadline=None)
@given(
    kind=kinds,
    seed=seeds,
    threshold=thresholds,
    cut=st.sampled_from((-0.5, 0.0, 0.2, 0.8)),
    directions=st.sampled_from((1, 20, DIMENSION)),
    count_and_listed=st.sampled_from(((2, 1), (30, 1), (30, 100))),
)
def test_no_hit_is_outside_of_what_a_query_reaches(
    kind: str,
    seed: int,
    threshold: float,
    cut: float,
    *,
    directions: int,
    count_and_listed: tuple[int, int],
) -> None:
    random = np.random.default_rng(seed)
    rows = vectors(kind, 700, DIMENSION, seed)
    queries = vectors(kind, 12, DIMENSION, seed)
    nearest = max(-1.0, min(1.0, threshold))
    rows[5:9] = [beside(query, nearest, random) for query in queries[:4]]
    basis = fit(rows[:300], directions)
    pivots = some_pivots(basis, rows, count_and_listed[0], cut, count_and_listed[1])
    lists = listed(pivots, basis, rows, (700,))
    for query in (*queries, *-queries):
        reach = reached(pivots, basis, query, threshold)
        slots = lists.within(reach) if reach else None
        if slots is not None:
            cosines = rows.astype(np.float64) @ query.astype(np.float64)
            missed = set(np.flatnonzero(cosines >= threshold)) - set(slots.tolist())
            assert not missed
            assert len(set(slots.tolist())) == len(slots)


def test_lists_that_grow_are_those_that_are_made_at_once() -> None:
    rows = vectors("clustered", 3000, DIMENSION, 1)
    basis = fit(rows[:500], 20)
    pivots = some_pivots(basis, rows, 20, 0.1)
    whole, grown = (listed(pivots, basis, rows, stops) for stops in ((3000,), (700, 701, 3000)))
    assert (whole.slots == grown.slots).all()
    assert (whole.ends == grown.ends).all()
    assert (whole.rows, whole.lowest) == (grown.rows, grown.lowest) == (3000, 0)


def test_lists_stay_within_the_memory_that_they_may_take() -> None:
    """If rows crowd around the pivots, the farthest leave the lists, of all pivots alike."""
    rows = vectors("opposite", 5000, DIMENSION, 1)
    basis = fit(rows[:500], 20)
    pivots = some_pivots(basis, rows, 40, -0.9, listed=4)
    for stops in ((5000,), (100, 1000, 5000)):
        lists = listed(pivots, basis, rows, stops)
        assert lists.lowest > 0
        assert len(lists.slots) <= 1.3 * 4 * 5000
    reach = reached(pivots, basis, rows[0], 0.9)
    assert reach is not None
    lowest = reach._replace(level=lists.lowest - 1)
    assert lists.within(lowest) is None
    assert lists.within(reach._replace(pivots=some_pivots(basis, rows, 40, -0.9))) is None


def test_pivots_are_there_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    def pivots(kind: str, numbers_per_listed: int) -> Pivots | None:
        monkeypatch.setattr(similarity_pivots, "_NUMBERS_PER_LISTED", numbers_per_listed)
        rows = vectors(kind, 2000, DIMENSION, 3)
        basis = fit(rows, 40)
        return fit_pivots(basis.coordinates(rows), basis.matrix, 2000, ERROR)

    found = pivots("clustered", 2)
    assert found is not None
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    assert pivots("random", 12) is None, "every pivot is far from every query"
    assert pivots("clustered", 100) is None


operations = st.lists(
    st.tuples(st.sampled_from(("add", "remove", "upkeep", "search")), st.integers(0, 1500)),
    min_size=4,
    max_size=20,
)


@settings(max_examples=25, deadline=None)
@given(
    operations=operations,
    kind=st.sampled_from(("clustered", "duplicated", "axes", "opposite")),
    dimension=st.sampled_from((16, 33, 100)),
    seed=seeds,
    threshold=st.sampled_from((0.0, 0.9, 0.95, 0.999)),
)
def test_an_index_with_lists_agrees_with_the_full_product(
    operations: list[tuple[str, int]], kind: str, dimension: int, seed: int, threshold: float
) -> None:
    index, plain = SimilarityIndex(dimension, now=Clock(0.0)), Plain()
    pool = vectors(kind, 2000, dimension, seed)

    def add(numbers: range) -> None:
        keys = [key_of(number) for number in numbers]
        index.extend(keys, pool[numbers.start : numbers.stop], [1.0] * len(keys))
        for number, key in zip(numbers, keys, strict=True):
            plain.add(key, pool[number], 1.0)

    add(range(1200))
    upkeep(index)
    for what, number in operations:
        if what == "add":
            add(range(number, number + 300))
        elif what == "remove":
            for each in range(number, number + 200):
                index.remove(key_of(each))
                plain.rows.pop(key_of(each), None)
        elif what == "upkeep":
            upkeep(index)
        for query in pool[[number, 1999, 0]]:
            plain.check(index.search(query, threshold, lambda _: True), query, threshold)


def test_a_search_looks_at_nothing_but_the_list_of_its_pivot() -> None:
    index = SimilarityIndex(DIMENSION, now=Clock(0.0))
    random = np.random.default_rng(1)
    centres = random.standard_normal((20, DIMENSION))
    rows = unit(centres[np.arange(2500) % 20] + 0.2 * random.standard_normal((2500, DIMENSION)))
    index.extend([key_of(number) for number in range(2500)], rows, [1.0] * 2500)
    assert "Listing" in upkeep(index)
    query, searched = rows[7], 0
    for block in index._blocks:
        prefix = block.prefix
        assert prefix is not None
        if prefix.lists is not None:
            look = prefix.basis.look(query, 0.99)
            assert look.reach is not None
            slots = prefix.lists.within(look.reach)
            assert slots is not None
            assert len(slots) < prefix.lists.rows / 3
            # What is not in the list now seems to be equal to the query.
            others = np.setdiff1d(np.arange(prefix.lists.rows), slots)
            prefix.first[others] = 1e6 * look.first
            searched += len(slots)
    assert 0 < searched < 2500 / 3
    found = index.search(query, 0.99, lambda _: True)
    assert found is not None
    assert found.key == key_of(7)
    assert index.survivors_mean * 64 < searched + 250, "those in no list yet, too"


def test_lists_are_counted_as_memory() -> None:
    index = SimilarityIndex(DIMENSION, now=Clock(0.0))
    rows = vectors("clustered", 2500, DIMENSION, 1)
    index.extend([key_of(number) for number in range(2500)], rows, [1.0] * 2500)
    upkeep(index)
    with_lists = index.size_bytes
    taken = 0
    for block in index._blocks:
        assert block.prefix is not None
        if block.prefix.lists is not None:
            taken += block.prefix.lists.size_bytes
            block.prefix.lists = None
    assert with_lists - index.size_bytes == taken > 0
