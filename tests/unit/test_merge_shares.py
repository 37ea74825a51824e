"""The shares of a bill: they add up, and are fair."""

from __future__ import annotations

from dataclasses import astuple
from fractions import Fraction
from math import fsum, ulp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mge_cache_server.merge_shares import share_cost, share_usage
from mge_cache_server.model import Usage

TOKENS = st.integers(0, 10**7)
USAGES = st.builds(Usage, TOKENS, TOKENS, TOKENS, TOKENS)
WEIGHTS = st.integers(1, 8).flatmap(
    lambda count: st.tuples(*2 * [st.lists(st.integers(0, 10**6), min_size=count, max_size=count)])
)


@given(USAGES, WEIGHTS)
def test_shares_of_usage_add_up_in_every_field(
    total: Usage, weights: tuple[list[int], list[int]]
) -> None:
    shares = share_usage(total, *weights)
    assert len(shares) == len(weights[0])
    sums = [sum(fields) for fields in zip(*map(astuple, shares), strict=True)]
    assert tuple(sums) == astuple(total)


@given(USAGES, WEIGHTS)
def test_no_share_is_off_by_a_token(total: Usage, weights: tuple[list[int], list[int]]) -> None:
    read, written = weights
    for index, share in enumerate(share_usage(total, read, written)):
        for tokens, of, by in (
            (share.input_tokens, total.input_tokens, read),
            (share.output_tokens, total.output_tokens, written),
            (share.cache_read_tokens, total.cache_read_tokens, read),
            (share.cache_write_tokens, total.cache_write_tokens, read),
        ):
            exact = Fraction(by[index], sum(by)) if sum(by) else Fraction(1, len(by))
            assert tokens >= 0
            assert abs(tokens - of * exact) < 1


def test_the_largest_remainders_get_the_tokens_that_are_left() -> None:
    shares = share_usage(Usage(10, 7, 1, 0), [1, 1, 4], [0, 3, 0])
    assert shares == [Usage(2, 0, 0, 0), Usage(2, 7, 0, 0), Usage(6, 0, 1, 0)]


@pytest.mark.parametrize("weights", [([], []), ([1], [1, 2]), ([1, -1], [1, 1]), ([1], [-1])])
def test_weights_that_are_none_are_refused(weights: tuple[list[int], list[int]]) -> None:
    with pytest.raises(ValueError, match="weights"):
        share_usage(Usage(1, 1), *weights)


@given(st.just(0.0) | st.floats(1e-9, 1e4), st.lists(USAGES, min_size=1, max_size=8))
def test_shares_of_the_cost_add_up_within_one_rounding(
    total_usd: float, shares: list[Usage]
) -> None:
    costs = share_cost(total_usd, shares)
    assert len(costs) == len(shares)
    assert all(cost >= 0 for cost in costs)
    assert abs(fsum(costs) - total_usd) <= ulp(total_usd)


def test_cost_goes_by_what_tokens_cost() -> None:
    shares = [Usage(100, 0, 0, 0), Usage(0, 20, 0, 0), Usage(0, 0, 1000, 0), Usage(0, 0, 0, 80)]
    assert share_cost(4.0, shares) == pytest.approx([1, 1, 1, 1])
    assert share_cost(3.0, [Usage(), Usage(10), Usage(20)]) == pytest.approx([0, 1, 2])


def test_without_tokens_the_cost_is_shared_equally() -> None:
    assert share_cost(1.0, [Usage(), Usage()]) == [0.5, 0.5]


def test_a_cost_needs_somebody_to_bear_it() -> None:
    with pytest.raises(ValueError, match="at least one"):
        share_cost(1.0, [])
