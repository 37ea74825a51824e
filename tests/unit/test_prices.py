"""Dollars, against hand-computed ones and against the price list's own arithmetic."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import genai_prices
import pytest
from genai_prices.data import providers
from hypothesis import given
from hypothesis import strategies as st

from mge_cache_server.model import Usage
from mge_cache_server.prices import ModelPrice, Prices, PricesFileError, read_prices_file

if TYPE_CHECKING:
    from pathlib import Path

LATE_2025_S = datetime(2025, 12, 1, 12, tzinfo=UTC).timestamp()
FLAT = ModelPrice(((-1, 2.0),), ((-1, 8.0),), None, None)
TOKENS = st.integers(0, 300_000)
USAGES = st.builds(Usage, TOKENS, TOKENS, TOKENS, TOKENS)

# Models whose tokens are billed as tokens of text, and nothing else.
PLAIN = sorted(
    (provider.id, model.id)
    for provider in providers
    for model in provider.models
    if provider.id in {"anthropic", "openai", "google", "mistral", "deepseek"}
)


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


@pytest.fixture(scope="module")
def prices() -> Prices:
    return Prices(wall_clock=lambda: LATE_2025_S)


@pytest.mark.parametrize(
    ("usage", "usd"),
    [
        # Claude Sonnet 4.5, per million: 3 in, 15 out, 0.30 read, 3.75 written.
        (Usage(input_tokens=1_000), 0.003),
        (Usage(output_tokens=1_000), 0.015),
        (Usage(cache_read_tokens=1_000), 0.0003),
        (Usage(cache_write_tokens=1_000), 0.00375),
        (Usage(1_000, 100, 500, 200), 0.003 + 0.0015 + 0.00015 + 0.00075),
        # More than 200,000 input tokens, those of the cache included: 6, 22.50, 0.60, 7.50.
        (Usage(100_000, 1_000, 100_001, 0), 0.6 + 0.0225 + 0.0600006),
        (Usage(100_000, 1_000, 100_000, 0), 0.3 + 0.015 + 0.03),
    ],
)
def test_a_real_model_by_hand(prices: Prices, usage: Usage, usd: float) -> None:
    for name in ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929", "anthropic/claude-sonnet-4-5"):
        assert prices.cost_usd(name, usage) == pytest.approx(usd, rel=1e-12)


@pytest.mark.parametrize(
    ("model", "usd"),
    [
        ("claude-opus-4-1", 15 + 75),
        ("claude-haiku-4-5@20251001", 1 + 5),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", 3 + 15),
        ("gpt-4o", 2.5 + 10),
    ],
)
def test_names_as_providers_write_them(prices: Prices, model: str, usd: float) -> None:
    usage = Usage(input_tokens=100_000, output_tokens=100_000)
    assert prices.cost_usd(model, usage) == pytest.approx(usd / 10)


@given(st.sampled_from(PLAIN), USAGES)
def test_the_same_as_the_price_list_computes(model: tuple[str, str], usage: Usage) -> None:
    provider, name = model
    try:
        natural = genai_prices.calc_price(
            # Theirs contain the tokens of the cache, ours do not.
            genai_prices.Usage(
                input_tokens=usage.input_tokens
                + usage.cache_read_tokens
                + usage.cache_write_tokens,
                cache_read_tokens=usage.cache_read_tokens,
                cache_write_tokens=usage.cache_write_tokens,
                output_tokens=usage.output_tokens,
            ),
            name,
            genai_request_timestamp=datetime.fromtimestamp(LATE_2025_S, UTC),
        )
    except LookupError:
        return
    cost = Prices(wall_clock=lambda: LATE_2025_S).cost_usd(name, usage)
    if cost is None:
        # We do not count tokens as free because the list has no price for them.
        listed = natural.model_price
        assert listed.input_mtok is None or listed.output_mtok is None, (provider, name)
    elif usage != Usage():
        assert cost == pytest.approx(float(natural.total_price), rel=1e-9)


def test_a_batch_costs_half(prices: Prices) -> None:
    usage = Usage(1000, 200, 30, 4)
    whole = prices.cost_usd("claude-sonnet-4-5", usage)
    assert whole is not None
    assert prices.batch_cost_usd("claude-sonnet-4-5", usage) == pytest.approx(whole / 2)
    assert prices.batch_cost_usd("unheard-of", usage) is None


def test_unknown_is_not_zero(prices: Prices) -> None:
    for name in ("my-own-model", "claude-sonnet-99", "x/y", "a.b", "", "claude"):
        assert prices.cost_usd(name, Usage(input_tokens=1)) is None
    assert prices.cost_usd("my-own-model", Usage()) == 0


def test_prices_change_with_the_clock() -> None:
    now_s = LATE_2025_S
    prices = Prices(wall_clock=lambda: now_s)
    changing = [
        (model.id, later.constraint.start_date)
        for provider in providers
        if provider.id == "anthropic"
        for model in provider.models
        if isinstance(model.prices, list)
        for later in model.prices
        if later.constraint is not None and hasattr(later.constraint, "start_date")
    ]
    if not changing:
        pytest.skip("no model of the list changes its price")
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    name, day = changing[-1]
    start_s = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
    now_s = start_s - 1
    before = prices.cost_usd(name, usage)
    now_s = start_s + 60
    assert prices.cost_usd(name, usage) != before


def test_made_up_names_do_not_take_memory_for_ever(prices: Prices) -> None:
    for i in range(3000):
        assert prices.cost_usd(f"made-up-{i}", Usage(input_tokens=1)) is None
    assert len(prices._remembered) <= 1024
    assert prices._bundled is not None
    assert len(prices._bundled._provider_misses) <= 2 * 1024
    assert prices.cost_usd("claude-sonnet-4-5", Usage(input_tokens=1_000)) == pytest.approx(0.003)


def test_own_prices_come_first_and_the_most_exact_of_them_counts() -> None:
    def costs(usd: float) -> ModelPrice:
        return ModelPrice(((-1, usd),), ((-1, usd),), None, None)

    prices = Prices(
        {
            "gpt-*": costs(1),
            "gpt-4o*": costs(2),
            "gpt-4o": costs(3),
            "claude-sonnet-4-5": costs(4),
        },
        wall_clock=lambda: LATE_2025_S,
    )
    million = Usage(input_tokens=100_000)
    names = ("gpt-5", "gpt-4o-mini", "gpt-4o", "claude-sonnet-4-5")
    assert [prices.cost_usd(name, million) for name in names] == [0.1, 0.2, 0.3, 0.4]
    assert prices.cost_usd("claude-sonnet-4-5-20250929", million) == pytest.approx(0.3)
    # Its price for tokens of the cache is not known, and not taken from elsewhere.
    assert prices.cost_usd("gpt-4o", Usage(cache_read_tokens=1)) is None


async def test_many_may_prepare_at_once_and_one_may_give_up() -> None:
    prices = Prices()
    callers = [asyncio.create_task(prices.prepare("claude-sonnet-4-5")) for _ in range(20)]
    await asyncio.sleep(0)
    callers[0].cancel()
    done = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert done[1:] == [None] * 19
    assert prices._bundled is not None


async def test_nothing_is_loaded_for_a_model_with_a_price_of_our_own() -> None:
    prices = Prices({"mine*": FLAT})
    await prices.prepare("mine-2")
    assert prices.cost_usd("mine-2", Usage(1_000_000, 1_000_000)) == 10
    assert prices._bundled is None


def test_the_list_is_not_imported_before_it_is_needed_and_starts_no_thread() -> None:
    program = """
import sys, threading
from mge_cache_server.model import Usage
from mge_cache_server.prices import Prices
prices = Prices()
assert "genai_prices" not in sys.modules and "pydantic" not in sys.modules
assert prices.cost_usd("claude-sonnet-4-5", Usage(input_tokens=1)) is not None
assert "genai_prices" in sys.modules and threading.active_count() == 1
"""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=60)


TOML = """
["our-model"]
input = 2
output = 8.0

["claude-sonnet-4-5*"]
input = 3.0
output = 15.0
cache_read = 0.3
cache_write = 3.75
"""


def test_a_file_in_toml_or_json(tmp_path: Path) -> None:
    content = {
        "our-model": {"input": 2, "output": 8.0},
        "claude-sonnet-4-5*": {
            "input": 3.0,
            "output": 15.0,
            "cache_read": 0.3,
            "cache_write": 3.75,
        },
    }
    from_toml = read_prices_file(write(tmp_path / "p.toml", TOML))
    assert from_toml == read_prices_file(write(tmp_path / "p.JSON", json.dumps(content)))
    assert from_toml["our-model"] == FLAT
    cost = from_toml["claude-sonnet-4-5*"].cost_usd(Usage(1_000, 100, 500, 200))
    assert cost == pytest.approx(0.0054)


def test_all_mistakes_of_a_file_are_reported_together(tmp_path: Path) -> None:
    path = write(
        tmp_path / "prices.json",
        json.dumps(
            {
                "a": {"input": -1, "output": "3", "cached": 2},
                "b": {"output": True},
                "c*d": {"input": 1, "output": float("nan")},
                "e": [1, 2],
                "": {"input": 10**400, "output": 0},
                "fine": {"input": 1, "output": 0},
            }
        ),
    )
    with pytest.raises(PricesFileError) as caught:
        read_prices_file(path)
    known = "input, output, cache_read, cache_write"
    assert caught.value.problems == (
        '"a": input must be a number of dollars from 0 to 1000000',
        '"a": output must be a number of dollars from 0 to 1000000',
        f'"a": "cached" is unknown; known are {known}',
        '"b": input is missing',
        '"b": output must be a number of dollars from 0 to 1000000',
        '"c*d": * may only stand at the end',
        '"c*d": output must be a number of dollars from 0 to 1000000',
        f'"e": must have the fields {known}',
        '"": a model\'s name is empty',
        '"": input must be a number of dollars from 0 to 1000000',
    )
    assert str(caught.value).count(str(path)) == len(caught.value.problems)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("p.yaml", "", "must end in .toml or .json"),
        ("p.json", "[]", "must map models to their prices"),
        ("p.json", "{", "Expecting property name"),
        ("p.json", '{"a": {"input": 1}, "a": {"input": 2}}', 'more than one of: "a"'),
        ("p.json", "[" * 100_000, "nested too deeply"),
        ("p.toml", "[a\n", "at line 1"),
        ("p.toml", "[a]\n[a]\n", "at line 2"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, name: str, text: str, problem: str) -> None:
    with pytest.raises(PricesFileError) as caught:
        read_prices_file(write(tmp_path / name, text))
    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(PricesFileError, match="cannot be read: No such file"):
        read_prices_file(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PricesFileError, match="utf-8"):
        read_prices_file(tmp_path / "bytes.toml")


def test_dollars_are_those_of_decimal_arithmetic() -> None:
    price = ModelPrice(((-1, 0.1),), ((-1, 0.2),), ((-1, 0.3),), ((-1, 0.4),))
    exact = Decimal("0.1") + Decimal("0.2") * 2 + Decimal("0.3") * 3 + Decimal("0.4") * 4
    cost = price.cost_usd(Usage(1_000_000, 2_000_000, 3_000_000, 4_000_000))
    assert cost == pytest.approx(float(exact), rel=1e-15)


def test_the_prices_of_a_model_are_those_that_its_calls_cost(prices: Prices) -> None:
    sonnet = prices.of("claude-sonnet-4-5")
    assert sonnet is not None
    usage = Usage(1_000, 100, 500, 200)
    assert sonnet.cost_usd(usage) == prices.cost_usd("claude-sonnet-4-5", usage)
    assert Prices({"own": FLAT}).of("own") is FLAT
    assert prices.of("nobody-knows-this-model") is None
