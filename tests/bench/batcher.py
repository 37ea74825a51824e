"""The sidecar's batcher beside Anthropic's SDK alone, before a Messages API of a fixed pace.

First 200 requests at once: the time they take and the calls that are made. Then one at a time, with
a window of 0, in turns: how long the first delta takes, and how long each delta is under way. For
that, each token is the time at which the API wrote it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mge_cache import Strategy
from tests.bench import servers
from tests.bench.asking import both_sides, direct, through
from tests.bench.measure import LoadError, Spread, percentile, spread
from tests.demo.accounts import read_served

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.bench.asking import Ask

DIRECT, FAN_OUT, MERGE = "SDK alone", "sidecar, fan_out", "sidecar, merge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured. ``token_s``: pace of the API while many requests are under way."""

    in_flight: int
    answer_tokens: int
    first_token_s: float
    tokens_per_s: float
    rounds: int
    calls: int
    """Of each kind in a round, one at a time."""


FULL = Size(in_flight=200, answer_tokens=24, first_token_s=0.5, tokens_per_s=20, rounds=5, calls=50)
QUICK = Size(in_flight=40, answer_tokens=6, first_token_s=0.1, tokens_per_s=40, rounds=2, calls=15)


@dataclass(frozen=True, slots=True)
class Burst:
    """Requests that were sent at once: what they took together, and p50 of each alone."""

    name: str
    requests: int
    wall_s: float
    calls: int
    billed_usd: float
    first_delta_s: float
    whole_s: float


@dataclass(frozen=True, slots=True)
class Latency:
    """One request at a time, window 0. Medians of the rounds' p50, in seconds."""

    direct_first_s: Spread
    first_s: Spread
    hit_s: Spread
    """From the sidecar's memory: what gRPC and the stream take, with no look-up and no call."""
    direct_delta_s: Spread
    delta_s: Spread

    @property
    def added_first_s(self) -> float:
        """How much later the first delta comes than from the SDK alone."""
        return self.first_s.median - self.direct_first_s.median

    @property
    def added_delta_s(self) -> float:
        """How much longer each later delta is under way."""
        return self.delta_s.median - self.direct_delta_s.median


@dataclass(frozen=True, slots=True)
class BatcherFigures:
    """What was found."""

    size: Size
    bursts: list[Burst]
    latency: Latency


async def measure_batcher(folder: Path, size: Size) -> BatcherFigures:
    """Start what is needed, and measure."""
    async with servers.valkey(folder / "batcher") as redis_socket:
        shared = ("--redis-url", f"unix://{redis_socket}", "--store-timeout", "5s")
        bursts = await _bursts(folder, shared, size)
        latency = await _latency(folder, shared, size)
    return BatcherFigures(size, bursts, latency)


async def _bursts(folder: Path, shared: Sequence[str], size: Size) -> list[Burst]:
    pace = (
        *("--first-token", str(size.first_token_s), "--tokens-per-s", str(size.tokens_per_s)),
        *("--answer-tokens", str(size.answer_tokens)),
    )
    prompts = [f"Plan step {number} of our move." for number in range(size.in_flight)]
    # The SDK alone has no limit to its calls: neither has the sidecar.
    no_limit = ("--upstream-calls-max", "1000")
    async with (
        servers.messages(folder, "burst-messages", *pace) as base_url,
        both_sides(folder, "burst", base_url, *shared, *no_limit) as sides,
    ):
        ways = {
            DIRECT: direct(sides.sdk),
            FAN_OUT: through(sides.client, "fan_out", Strategy.FAN_OUT),
            MERGE: through(sides.client, "merge", Strategy.MERGE),
        }
        for way in ways.values():  # loads the SDK, opens connections
            await _whole(way, "Is anybody there?")
        bursts, texts = [], []
        for name, way in ways.items():
            burst, answers = await _burst(name, way, prompts, base_url)
            bursts.append(burst)
            texts.append(answers)
        if any(each != texts[0] for each in texts):
            raise LoadError("the sidecar's answers are not those of the SDK alone")
        return bursts


async def _burst(
    name: str, ask: Ask, prompts: Sequence[str], base_url: str
) -> tuple[Burst, list[str]]:
    before = await asyncio.to_thread(read_served, base_url)
    started = time.perf_counter()
    asked = await asyncio.gather(*(_whole(ask, prompt) for prompt in prompts))
    wall_s = time.perf_counter() - started
    served = (await asyncio.to_thread(read_served, base_url)).since(before)
    burst = Burst(
        name,
        len(prompts),
        wall_s,
        served.calls,
        served.billed_usd,
        percentile([answer.first_s for answer in asked], 50),
        percentile([answer.whole_s for answer in asked], 50),
    )
    return burst, [answer.text for answer in asked]


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    first_s: float
    whole_s: float


async def _whole(ask: Ask, prompt: str) -> _Answer:
    started = time.perf_counter()
    parts: list[str] = []
    first_s = 0.0
    async for part in ask(prompt):
        if not parts:
            first_s = time.perf_counter() - started
        parts.append(part)
    return _Answer("".join(parts), first_s, time.perf_counter() - started)


async def _latency(folder: Path, shared: Sequence[str], size: Size) -> Latency:
    pace = ("--first-token", "0", "--tokens-per-s", "400", "--answer-tokens", "8", "--stamped")
    async with (
        servers.messages(folder, "stamped-messages", *pace) as base_url,
        both_sides(folder, "window0", base_url, *shared, "--batch-window", "0") as sides,
    ):
        alone = direct(sides.sdk)
        with_sidecar = through(sides.client, "window0", Strategy.FAN_OUT)
        direct_s, through_s, hit_s = (_Times([], []) for _ in range(3))
        for number in range(size.rounds + 1):
            rounds_s = [_Times([], []) for _ in range(3)]
            for call in range(size.calls):
                # In turns: what else the machine does meets both.
                await _timed(alone, f"{number} {call}", rounds_s[0])
                await _timed(with_sidecar, f"{number} {call}", rounds_s[1])
                await _timed(with_sidecar, "0 0", rounds_s[2])
            if number:  # the first one warms up
                direct_s.add_p50(rounds_s[0])
                through_s.add_p50(rounds_s[1])
                hit_s.add_p50(rounds_s[2])
    return Latency(
        spread(direct_s.first_s),
        spread(through_s.first_s),
        spread(hit_s.first_s),
        spread(direct_s.delta_s),
        spread(through_s.delta_s),
    )


@dataclass(frozen=True, slots=True)
class _Times:
    """From the call to the first delta, and from its writing to its arrival for each later one."""

    first_s: list[float]
    delta_s: list[float]

    def add_p50(self, of: _Times) -> None:
        self.first_s.append(percentile(of.first_s, 50))
        self.delta_s.append(percentile(of.delta_s, 50))


async def _timed(ask: Ask, prompt: str, times: _Times) -> None:
    started, is_first = time.perf_counter(), True
    async for part in ask(prompt):
        now = time.perf_counter()
        if is_first:
            times.first_s.append(now - started)
        else:
            # Parts that the sidecar has joined are several stamps.
            times.delta_s.extend(now - float(stamp) for stamp in part.split())
        is_first = False
