"""Which requests are merged: against arithmetic by hand, and properties of every plan."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mge_cache_server.merge_plan import (
    ASKED_AGAIN_RATE,
    INSTRUCTION_TOKENS,
    MARKER_TOKENS,
    Candidate,
    cacheable_from,
    estimate_tokens,
    merged_max_tokens,
    worth_merging,
)
from mge_cache_server.merge_prompt import answer_line, merged_call
from mge_cache_server.prices import ModelPrice, Prices

if TYPE_CHECKING:
    from pathlib import Path

NONCE = "9f0c3a51d2e84b67a0f1c2d3"
NONCE_TOKENS = 15
NEVER_CACHED = 10**9
SHORT = Candidate(prompt_tokens=60, max_tokens=200)
SONNET = ModelPrice(((-1, 3.0),), ((-1, 15.0),), ((-1, 0.3),), ((-1, 3.75),))

candidates = st.lists(
    st.builds(Candidate, st.integers(0, 5000), st.integers(1, 20_000)), max_size=8
)
system_lengths = st.integers(0, 20_000)
flat_prices = st.none() | st.builds(
    lambda usd, times: ModelPrice(((-1, usd),), ((-1, usd * times),), None, None),
    st.floats(0.01, 100),
    st.floats(1, 10),
)


def test_an_estimate_is_bytes_by_three_and_a_half_rounded_up() -> None:
    assert [estimate_tokens(text) for text in ("", "a", "a" * 7, "a" * 8)] == [0, 1, 2, 3]
    assert estimate_tokens("日本語") == 3
    assert estimate_tokens("\ud800") == 1


@given(st.text(), st.text())
def test_estimates_add_up_but_for_rounding(first: str, second: str) -> None:
    both = estimate_tokens(first) + estimate_tokens(second)
    assert both - 1 <= estimate_tokens(first + second) <= both


def tokens_of_ours(text: str) -> int:
    return estimate_tokens(text.replace(NONCE, "")) + NONCE_TOKENS * text.count(NONCE)


def test_the_constants_are_those_of_the_texts() -> None:
    call = merged_call(["", ""], system="", nonce=NONCE)
    closing = call.user_text.splitlines()[-1]
    assert 0.9 < tokens_of_ours(call.instructions + closing) / INSTRUCTION_TOKENS <= 1
    assert 0.8 < tokens_of_ours(f"\n{answer_line(NONCE, 99)}\n") / MARKER_TOKENS <= 1
    assert 0.8 < tokens_of_ours(f"\n[{NONCE} request 99]\n") / MARKER_TOKENS <= 1


@pytest.mark.parametrize(
    ("model", "least"),
    [
        ("claude-haiku-4-5-20251001", 4096),
        ("anthropic/claude-haiku-4.5", 4096),
        ("us.anthropic.claude-opus-4-6-v1:0", 4096),
        ("claude-opus-4-7", 2048),
        ("claude-opus-4-8", 1024),
        ("claude-opus-4-20250514", 1024),
        ("claude-sonnet-4-5", 1024),
        ("claude-3-5-haiku-latest", 2048),
        ("claude-3-7-sonnet-latest", 1024),
        ("claude-sonnet-5", 1024),
        ("claude-sonnet-5-5", 512),
        ("claude-opus-5", 512),
        ("something-else", 512),
    ],
)
def test_models_cache_from_their_own_least_length(model: str, least: int) -> None:
    assert cacheable_from(model) == least


def test_there_is_room_for_every_answer_and_marker() -> None:
    assert merged_max_tokens([SHORT, Candidate(1, 4096)]) == 200 + 4096 + 3 * MARKER_TOKENS


@pytest.mark.parametrize(
    ("system_tokens", "is_worth"), [(0, False), (150, False), (300, True), (500, True)]
)
def test_five_short_requests_are_merged_behind_a_system_prompt(
    *, system_tokens: int, is_worth: bool
) -> None:
    planned = worth_merging([SHORT] * 5, system_tokens=system_tokens, prices=SONNET)
    assert planned == [is_worth] * 5


def test_the_turning_point_by_hand() -> None:
    # Of input tokens, output counting five: (4·S - 250) / 5 saved, 22 + 22·6/5·5 spent on markers,
    # 0.02·(S + 60 + 200·5) on asking again: S·(0.8 - 0.02) = 50 + 22 + 132 + 21.2, S = 288.7.
    for system_tokens, is_worth in ((288, False), (289, True)):
        planned = worth_merging(
            [SHORT] * 5, system_tokens=system_tokens, prices=None, cache_min_tokens=NEVER_CACHED
        )
        assert planned == [is_worth] * 5


@pytest.mark.parametrize(
    ("system_tokens", "warm", "is_worth"),
    [(1023, False, True), (1024, False, False), (2500, False, True), (2500, True, False)],
)
def test_the_provider_s_cache_is_what_merging_has_to_beat(
    *, system_tokens: int, warm: bool, is_worth: bool
) -> None:
    planned = worth_merging(
        [SHORT] * 5,
        system_tokens=system_tokens,
        prices=SONNET,
        cache_min_tokens=1024,
        cache_warm=warm,
    )
    assert planned == [is_worth] * 5


def test_a_request_that_is_too_long_goes_alone() -> None:
    huge = Candidate(prompt_tokens=50_000, max_tokens=200)
    planned = worth_merging([SHORT, huge, SHORT, SHORT, SHORT], system_tokens=500, prices=None)
    assert planned == [True, False, True, True, True]


def test_dropping_one_can_leave_too_few_to_gain() -> None:
    # Three gain as little as 0.65·S - 83.3 - 22 - 146.7 - 21.2 = 0 at S = 421; two need more.
    requests = [SHORT, SHORT, Candidate(50_000, 200)]
    assert worth_merging([SHORT] * 3, system_tokens=440, prices=None) == [True] * 3
    assert worth_merging(requests, system_tokens=440, prices=None) == [False] * 3


def test_a_batch_that_passes_the_threshold_of_a_price_is_not_merged() -> None:
    # Claude Sonnet 4.5 of 2025: twice the price for all tokens beyond 200,000 of input.
    late_2025_s = datetime(2025, 12, 1, tzinfo=UTC).timestamp()
    sonnet = Prices(wall_clock=lambda: late_2025_s).of("claude-sonnet-4-5")
    assert sonnet is not None
    requests = [Candidate(60_000, 200)] * 3
    flat, stepped = (
        worth_merging(requests, system_tokens=20_000, prices=prices, cache_min_tokens=NEVER_CACHED)
        for prices in (SONNET, sonnet)
    )
    assert sum(flat) == 3
    assert sum(stepped) == 2


def test_the_turning_points_are_those_of_the_documentation(repository: Path) -> None:
    page = (repository / "docs/merge.md").read_text("utf-8")
    table = page.partition("| n | not cacheable |")[2].partition("\n\n")[0]
    rows = [row.replace(",", "").strip("| ").split(" | ") for row in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["2", "3", "5", "10"]
    for count, *points in rows:
        ways = [(NEVER_CACHED, False), (0, False), (0, True)]
        for point, (cache_min_tokens, warm) in zip(points, ways, strict=True):
            for system_tokens in (int(point) - 1, int(point)):
                planned = worth_merging(
                    [SHORT] * int(count),
                    system_tokens=system_tokens,
                    prices=None,
                    cache_min_tokens=cache_min_tokens,
                    cache_warm=warm,
                )
                assert set(planned) == {system_tokens == int(point)}


@given(requests=candidates, system_tokens=system_lengths, prices=flat_prices, warm=st.booleans())
def test_one_is_never_merged(
    *, requests: list[Candidate], system_tokens: int, prices: ModelPrice | None, warm: bool
) -> None:
    planned = worth_merging(requests, system_tokens=system_tokens, prices=prices, cache_warm=warm)
    assert len(planned) == len(requests)
    assert sum(planned) != 1


@given(candidates, system_lengths, flat_prices)
def test_what_is_merged_costs_less_than_apart(
    requests: list[Candidate], system_tokens: int, prices: ModelPrice | None
) -> None:
    """The whole batch, added up as the call is billed, asking again included."""
    planned = worth_merging(
        requests, system_tokens=system_tokens, prices=prices, cache_min_tokens=NEVER_CACHED
    )
    batch = [item for item, inside in zip(requests, planned, strict=True) if inside]
    if not batch:
        return
    output = 5.0
    if prices is not None and prices.input is not None and prices.output is not None:
        output = prices.output[0][1] / prices.input[0][1]
    apart = sum(system_tokens + item.prompt_tokens + item.output_tokens * output for item in batch)
    call = system_tokens + INSTRUCTION_TOKENS + MARKER_TOKENS * output
    call += sum(
        item.prompt_tokens + MARKER_TOKENS + (item.output_tokens + MARKER_TOKENS) * output
        for item in batch
    )
    assert call + ASKED_AGAIN_RATE * apart <= apart * (1 + 1e-9)


@given(st.integers(2, 8), st.integers(0, 3000), system_lengths)
def test_equal_requests_have_an_equal_fate(
    count: int, prompt_tokens: int, system_tokens: int
) -> None:
    requests = [Candidate(prompt_tokens, 100)] * count
    planned = worth_merging(requests, system_tokens=system_tokens, prices=None)
    assert len(set(planned)) == 1
