"""The index finds what a full product finds, whatever the data: recall 1.0."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mge_cache_server.similarity import SimilarityIndex, normalise
from tests.unit.scene import Clock
from tests.unit.vectors import (
    KINDS,
    Plain,
    beside,
    dimensions,
    key_of,
    kinds,
    seeds,
    thresholds,
    unit,
    upkeep,
    vectors,
)


def filled(rows: np.ndarray, *, compact: bool = False) -> tuple[SimilarityIndex, Plain]:
    index, plain = (
        SimilarityIndex(rows.shape[1], compact=compact, now=Clock(0.0)),
        Plain(compact=compact),
    )
    keys = [key_of(number) for number in range(len(rows))]
    index.extend(keys, rows, [1.0] * len(rows))
    for key, row in zip(keys, rows, strict=True):
        plain.add(key, row, 1.0)
    return index, plain


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [1, 16, 40, 96])
def test_a_fitted_index_agrees_with_the_full_product(
    kind: str, dimension: int, *, compact: bool
) -> None:
    rows = vectors(kind, 1500, dimension, seed=dimension)
    index, plain = filled(rows[:1400], compact=compact)
    assert upkeep(index)[:2] == ["Fit", "Rebase"]
    for row in rows[1380:1420]:
        for threshold in (-0.5, 0.5, 0.95, 0.9999):
            found = index.search(row, threshold, lambda _: True)
            plain.check(found, row, threshold)


@settings(max_examples=30, deadline=None)
@given(
    kind=kinds,
    other=kinds,
    dimension=dimensions,
    seed=seeds,
    threshold=thresholds,
    stale=st.booleans(),
)
def test_any_basis_is_right(
    kind: str, other: str, dimension: int, seed: int, threshold: float, *, stale: bool
) -> None:
    """Also one that was fitted to rows of another kind, or to none that are left."""
    index, plain = filled(vectors(kind, 1001, dimension, seed))
    upkeep(index)
    if stale:
        for key in list(plain.rows)[:-5]:
            index.remove(key)
            del plain.rows[key]
    for number, row in enumerate(vectors(other, 30, dimension, seed + 1), start=5000):
        index.add(key_of(number), row, expires_s=1.0)
        plain.add(key_of(number), row, 1.0)
    queries = np.concatenate(
        (vectors(kind, 4, dimension, seed), vectors(other, 4, dimension, seed + 1))
    )
    for query in (*queries, *-queries):
        plain.check(index.search(query, threshold, lambda _: True), query, threshold)


@settings(max_examples=25, deadline=None)
@given(
    seed=seeds,
    dimension=st.sampled_from((2, 32, 64, 384)),
    threshold=st.sampled_from((0.5, 0.9, 0.95, 0.999)),
    aligned=st.sampled_from(("with", "against", "any")),
)
def test_rows_on_either_side_of_the_threshold(
    seed: int, dimension: int, threshold: float, aligned: str
) -> None:
    """A query within the basis, or within what it leaves out, where the bound is sharp."""
    random = np.random.default_rng(seed)
    rows = vectors("flat", 1001, dimension, seed)
    index, plain = filled(rows)
    upkeep(index)
    basis = index._upkeep.basis
    assert basis is not None
    query = random.standard_normal(dimension)
    if aligned != "any" and dimension > basis.directions:
        inside = basis.matrix.T @ (basis.matrix @ query)
        query = inside if aligned == "with" else query - inside
    sought = normalise(query)
    for number, off in enumerate((-1e-6, -1e-7, 1e-7, 1e-6)):
        row = beside(sought, threshold + off, random)
        index.add(key_of(9000 + number), row, expires_s=1.0)
        plain.add(key_of(9000 + number), row, 1.0)
        plain.check(index.search(sought, threshold, lambda _: True), sought, threshold)


operations = st.lists(
    st.tuples(
        st.sampled_from(("add", "add many", "remove", "remove many", "pass", "expire", "upkeep")),
        st.integers(0, 400),
        st.floats(0.1, 9.0),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(
    operations=operations,
    kind=kinds,
    dimension=dimensions,
    seed=seeds,
    compact=st.booleans(),
    threshold=thresholds,
)
def test_growing_and_shrinking(
    operations: list[tuple[str, int, float]],
    kind: str,
    dimension: int,
    seed: int,
    threshold: float,
    *,
    compact: bool,
) -> None:
    clock = Clock(0.0)
    index = SimilarityIndex(dimension, compact=compact, now=clock)
    plain = Plain(compact=compact)
    pool = vectors(kind, 800, dimension, seed)
    for what, number, seconds in operations:
        chosen = range(number, number + 300) if "many" in what else (number,)
        if "add" in what:
            times_s = [clock() + seconds] * len(chosen)
            assert index.extend([key_of(n) for n in chosen], pool[list(chosen)], times_s) == []
            for each in chosen:
                plain.add(key_of(each), pool[each], clock() + seconds)
        elif "remove" in what:
            for each in chosen:
                assert index.remove(key_of(each)) == (
                    plain.rows.pop(key_of(each), None) is not None
                )
        elif what == "pass":
            clock.advance(seconds)
        elif what == "expire":
            over = {key for key, (_, end_s) in plain.rows.items() if end_s <= clock()}
            assert set(index.expire(10_000)) == over
            plain.rows = {key: row for key, row in plain.rows.items() if key not in over}
        else:
            upkeep(index)
        assert index.rows == len(plain.rows)
        for query in pool[[number, 750]]:
            for admits in (lambda _: True, lambda key: key[-1] % 3 == 0):
                found = index.search(query, threshold, admits)
                plain.check(found, query, threshold, now_s=clock(), admits=admits)
    assert all((key_of(each) in index) == (key_of(each) in plain.rows) for each in range(700))


@pytest.mark.parametrize("rows", [1, 2000])
def test_admits_is_asked_best_first_and_only_above_the_threshold(rows: int) -> None:
    random = np.random.default_rng(1)
    query = normalise(random.standard_normal(64))
    index, _ = filled(vectors("random", rows, 64, 2))
    upkeep(index)
    for number, cosine in enumerate((0.96, 0.99, 0.94, 0.97)):
        index.add(bytes([number]), beside(query, cosine, random), expires_s=1.0)
    asked: list[bytes] = []

    def refuse(key: bytes) -> bool:
        asked.append(key)
        return False

    assert index.search(query, 0.95, refuse) is None
    assert asked == [b"\1", b"\3", b"\0"]
    found = index.search(query, 0.95, lambda key: key != b"\1")
    assert found is not None
    assert (found.key, round(found.cosine, 6)) == (b"\3", 0.97)


def test_an_empty_index_finds_nothing() -> None:
    index = SimilarityIndex(3)
    assert index.search(normalise([1, 0, 0]), -1.0, lambda _: True) is None
    assert (index.rows, index.size_bytes, index.due(), index.expire()) == (0, 0, None, [])


@pytest.mark.parametrize(
    "vector", [[0.0, 0.0], [1.0, float("nan")], [float("inf"), 1.0], [1.0], [[1.0, 0.0]], []]
)
def test_what_has_no_direction_is_refused(vector: list[float]) -> None:
    with pytest.raises(ValueError, match="embedding"):
        normalise(vector, 2)


@pytest.mark.parametrize("scale", [5e-324, 1e-30, 1.0, 1e300])
def test_any_length_is_brought_to_one(scale: float) -> None:
    vector = normalise(np.array([3.0, 4.0]) * scale if scale > 1e-300 else [scale, 0.0], 2)
    assert vector.dtype == np.float32
    assert abs(float(vector @ vector) - 1) < 1e-6


def test_vectors_of_another_length_or_dimension_are_refused() -> None:
    index = SimilarityIndex(2)
    for wrong in (np.array([1, 1], np.float32), np.array([1, 0, 0], np.float32)):
        with pytest.raises(ValueError, match="unit length"):
            index.add(b"k", wrong, expires_s=1.0)
        with pytest.raises(ValueError, match="unit length"):
            index.search(wrong, 0.9, lambda _: True)
        with pytest.raises(ValueError, match=r"each row|unit length"):
            index.extend([b"k"], wrong[np.newaxis], [1.0])
    assert index.rows == 0


def test_the_rounding_of_compact_rows_is_as_stated() -> None:
    random = np.random.default_rng(3)
    index = SimilarityIndex(384, compact=True, now=Clock(0.0))
    queries = unit(random.standard_normal((200, 384)))
    for number, query in enumerate(queries):
        index.add(key_of(number), beside(query, 0.9, random), expires_s=1.0)
    worst = 0.0
    for query in queries:
        found = index.search(query, 0.85, lambda _: True)
        assert found is not None
        worst = max(worst, abs(found.cosine - 0.9))
    assert worst < 1e-4, "5e-4 is the bound, 1e-5 is usual"
