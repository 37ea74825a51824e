"""Re-ranking against brute force, and the certificate against every document of the corpus."""

from __future__ import annotations

from math import cos, sin
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import event, given

from mge_cache_server.rag_rerank import (
    LENGTH_TOLERANCE,
    certifiable_radius,
    is_certified,
    rerank,
    score_error,
)
from tests.unit.corpora import (
    Floats,
    Scene,
    by_cosine,
    by_product,
    cosines,
    easy,
    near_misses,
    random_corpus,
    scenes,
    unit,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def check(scene: Scene) -> bool:
    """If the answer is certified, it must be what the search says; return whether it was."""
    found, ranking, certified = scene.answer()
    if certified:
        # No document from outside the candidates, not even as a tie.
        searched = scene.search(scene.query, scene.k)
        assert set(searched) <= set(found)
        truth = np.sort(cosines(scene.query, scene.corpus))[::-1][: scene.k]
        # The search ranks by what it computed: in a tie, others can be in place of these.
        tie = 1e-12 if scene.score is by_cosine else 2 * score_error(scene.corpus.shape[1])
        by_search = np.sort(cosines(scene.query, scene.corpus[searched]))[::-1]
        same = np.array_equal(scene.query, scene.cached_query)
        np.testing.assert_allclose(ranking.cosines, truth, rtol=0, atol=tie if same else 1e-12)
        np.testing.assert_allclose(by_search, truth, rtol=0, atol=tie)
    return certified


@given(scenes())
def test_a_certified_answer_is_that_of_the_search(scene: Scene) -> None:
    event(f"certified: {check(scene)}")


@given(near_misses())
def test_a_certified_answer_is_that_of_the_search_however_narrowly(scene: Scene) -> None:
    event(f"certified: {check(scene)}")


@given(scenes())
def test_ranks_as_brute_force_does(scene: Scene) -> None:
    query, embeddings, k = scene.query, scene.corpus, scene.k
    ranking = rerank(query, embeddings, k)
    expected = cosines(query, embeddings)
    np.testing.assert_allclose(ranking.cosines, np.sort(expected)[::-1][:k], rtol=0, atol=1e-12)
    np.testing.assert_allclose(ranking.cosines, expected[ranking.order], rtol=0, atol=1e-12)
    assert len(set(ranking.order)) == k


@pytest.mark.parametrize("dimension", [1, 2, 7, 33, 384, 1536])
@pytest.mark.parametrize("rows", [3, 50, 101])
def test_equal_documents_stay_in_their_order(rows: int, dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    different = random_corpus(rng, 4, dimension)
    which = rng.integers(4, size=rows)
    ranking = rerank(random_corpus(rng, 1, dimension)[0], different[which], rows)
    ranked = which[ranking.order]
    for one in set(ranked):
        assert len(set(ranking.cosines[ranked == one])) == 1
        assert np.all(np.diff(ranking.order[ranked == one]) > 0)


@pytest.mark.parametrize(
    ("candidates", "step", "least", "most"),
    [
        (50, 0.02, 0.95, 1.0),
        (50, 0.1, 0.5, 0.999),
        (200, 0.3, 0.1, 0.5),
        (50, 1.0, 0.0, 0.0),  # too far for any proof
        (10, 0.02, 0.0, 0.0),  # nothing was over-fetched
    ],
)
def test_certifies_a_fair_share(candidates: int, step: float, least: float, most: float) -> None:
    rng = np.random.default_rng(1)
    share = np.mean([check(easy(rng, candidates=candidates, step=step)) for _ in range(100)])
    assert least <= share <= most


def test_the_bound_is_used_up() -> None:
    """In a plane the bound is exact: a little more room than the two slacks must be enough."""
    radius, turned = 1.0, 0.4
    slack = 4 * score_error(2)

    def certified(room: float) -> bool:
        angles = [0.0, turned, turned - (radius - turned - room), -radius, radius + 1e-3]
        vectors = unit(np.array([[cos(angle), sin(angle)] for angle in angles]))
        return check(Scene(vectors[2:], vectors[0], vectors[1], by_cosine, 2, 1))

    # A squared distance changes by 2 sin(angle) a unit of angle.
    both = slack / (2 * sin(radius)) + slack / (2 * sin(radius - turned))
    assert certified(room=1.02 * both)
    assert not certified(room=0.98 * both)
    assert not certified(room=-both)


def test_the_same_embedding_is_certified_without_more_documents() -> None:
    rng = np.random.default_rng(2)
    scene = easy(rng, candidates=10, step=0.0)
    assert check(scene)
    fewer = Scene(scene.corpus[:9], scene.query, scene.query, by_product, 10, 10)
    assert not check(fewer)  # nine were found: were there no more, or was the rest cut off?


def test_all_documents_are_certified_if_the_caller_says_so() -> None:
    rng = np.random.default_rng(3)
    embeddings, (cached_query, query) = random_corpus(rng, 7, 8), random_corpus(rng, 2, 8)
    found = embeddings[np.argsort(-(embeddings @ cached_query))]
    ranking, radius = rerank(query, found, 10), certifiable_radius(cached_query, found)

    def certified(*, complete: bool) -> bool:
        return is_certified(
            query, found, ranking, cached_query=cached_query, radius=radius, complete=complete
        )

    assert len(ranking.order) == 7
    assert certified(complete=True)
    assert not certified(complete=False)


def test_the_radius_is_that_of_the_farthest() -> None:
    cached_query = np.array([1, 0], np.float32)
    found = np.array([[1, 0], [0, 1], [0, -1]], np.float32)
    assert certifiable_radius(cached_query, found) == pytest.approx(np.sqrt(2), abs=1e-12)


def test_the_radius_does_not_cancel_near_one() -> None:
    angle = 1e-5
    cached_query = np.array([1, 0], np.float32)
    found = np.array([[cos(angle), sin(angle)]], np.float32)
    assert certifiable_radius(cached_query, found) == pytest.approx(angle, rel=1e-6)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: rows[:0],
        lambda rows: rows * np.float32(1 + 2 * LENGTH_TOLERANCE),
        lambda rows: rows * np.float32(17),
        lambda rows: np.vstack([rows[:-1], 0 * rows[-1:]]),
        lambda rows: np.vstack([rows[:-1], np.nan * rows[-1:]]),
        lambda rows: rows[::-1],
        lambda rows: np.vstack([rows[5:], rows[:5]]),
    ],
    ids=["none", "longer", "not normalised", "zero", "not a number", "backwards", "other order"],
)
def test_what_cannot_be_certified_has_no_radius(spoil: Callable[[Floats], Floats]) -> None:
    scene = easy(np.random.default_rng(4), candidates=50, step=0.0)
    found = scene.corpus[scene.search(scene.cached_query, 50)]
    assert certifiable_radius(scene.cached_query, found) is not None
    assert certifiable_radius(scene.cached_query, spoil(found)) is None


def test_a_drift_in_small_steps_is_no_order() -> None:
    """Each candidate is hardly nearer than the one before, the last much nearer than the first."""
    step = score_error(2)
    angles = np.arccos(0.5 + step * np.arange(50))
    found = unit(np.column_stack([np.cos(angles), np.sin(angles)]))
    assert certifiable_radius(np.array([1, 0], np.float32), found) is None


def test_without_a_radius_nothing_is_certified() -> None:
    scene = easy(np.random.default_rng(5), candidates=50, step=0.0)
    ranking = rerank(scene.query, scene.corpus, 10)
    assert not is_certified(
        *(scene.query, scene.corpus, ranking),
        cached_query=scene.query,
        radius=None,
        complete=True,
    )


def test_floats16_of_an_index_are_near_enough_to_unit_length() -> None:
    rng = np.random.default_rng(6)
    halved = random_corpus(rng, 1000, 384).astype(np.float16).astype(np.float32)
    query = random_corpus(rng, 1, 384)[0]
    assert certifiable_radius(query, halved[np.argsort(-(halved @ query))]) is not None


@pytest.mark.parametrize("k", [0, -1])
def test_refuses_to_rank_for_nothing(k: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        rerank(np.ones(2, np.float32), np.ones((3, 2), np.float32), k)
