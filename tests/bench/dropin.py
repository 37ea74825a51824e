"""What the drop-in for Anthropic's SDK adds to a miss of the bare SDK, and how fast a hit is.

The Messages API is the local one, which answers at once: the ratio is the worst there is. Beside an
answer that takes seconds, what is added does not show.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from anthropic import AsyncAnthropic
from rich import box
from rich.table import Table

from mge_cache import Timeouts
from mge_cache.anthropic import PromptCacheMiddleware
from tests.bench import servers
from tests.bench.measure import LoadError, Spread, percentile, spread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

_MODEL = "claude-sonnet-5-5"
_PATIENT = Timeouts(get_s=5.0, set_s=5.0)
_KINDS = ("whole", "streamed")


@dataclass(frozen=True, slots=True)
class DropIn:
    """Medians (p50) of rounds of one kind of call, in seconds; the ratio is that of medians."""

    kind: str
    bare_s: Spread
    miss_s: Spread
    hit_s: Spread
    ratio: float

    @property
    def added_s(self) -> float:
        """What a miss takes longer than the bare SDK."""
        return self.miss_s.median - self.bare_s.median


async def measure_dropin(folder: Path, redis_socket: str, *, rounds: int) -> list[DropIn]:
    """Take turns between the bare SDK, misses and hits, one call at a time."""
    options = ("--redis-url", f"unix://{redis_socket}", "--store-timeout", "5s")
    async with (
        servers.messages(folder, "dropin-messages", "--delay", "0") as base_url,
        servers.sidecar(folder, "dropin", *options) as sidecar,
        PromptCacheMiddleware(target=sidecar.target, timeouts=_PATIENT) as cache,
        AsyncAnthropic(api_key="made-up", base_url=base_url) as bare,
    ):
        cached = bare.with_middleware(cache)
        found = [await _kind(kind, bare, cached, rounds=rounds) for kind in _KINDS]
        if set(cache.counts) != {"hit", "miss"} or cache.failures:
            raise LoadError(f"the drop-in did something else: {cache.counts}")
        return found


async def _kind(kind: str, bare: AsyncAnthropic, cached: AsyncAnthropic, *, rounds: int) -> DropIn:
    ask = _streamed if kind == "streamed" else _whole
    prompts = (f"{kind} {number}" for number in itertools.count())
    same = itertools.repeat(next(prompts))
    await ask(bare, next(same))
    await ask(cached, next(same))
    taken: dict[str, list[float]] = {"bare": [], "miss": [], "hit": []}
    for _ in range(rounds):
        taken["bare"].append(await _p50(ask, bare, prompts))
        taken["miss"].append(await _p50(ask, cached, prompts))
        taken["hit"].append(await _p50(ask, cached, same))
    spreads = {name: spread(values) for name, values in taken.items()}
    return DropIn(
        kind,
        spreads["bare"],
        spreads["miss"],
        spreads["hit"],
        spreads["miss"].median / spreads["bare"].median,
    )


_CALLS = 40
"""Calls of a round, of which it gives the median."""


async def _p50(
    ask: Callable[[AsyncAnthropic, str], Awaitable[None]],
    client: AsyncAnthropic,
    prompts: Iterator[str],
) -> float:
    taken_s = []
    for prompt in itertools.islice(prompts, _CALLS):
        started = time.perf_counter()
        await ask(client, prompt)
        taken_s.append(time.perf_counter() - started)
    return percentile(taken_s, 50)


async def _whole(client: AsyncAnthropic, prompt: str) -> None:
    await client.messages.create(
        model=_MODEL, max_tokens=500, messages=[{"role": "user", "content": prompt}]
    )


async def _streamed(client: AsyncAnthropic, prompt: str) -> None:
    async with client.messages.stream(
        model=_MODEL, max_tokens=500, messages=[{"role": "user", "content": prompt}]
    ) as stream:
        await stream.until_done()


def table(found: list[DropIn]) -> Table:
    """Return the figures as a table."""
    shown = Table(
        title="Drop-in for Anthropic's SDK, one call at a time, of an API that answers at once: "
        "p50 µs (quartiles)",
        box=box.SIMPLE_HEAD,
    )
    shown.add_column("call")
    for heading in ("bare SDK", "miss", "ratio", "added µs", "hit"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for each in found:
        shown.add_row(
            each.kind,
            _around(each.bare_s),
            _around(each.miss_s),
            f"{each.ratio:.2f}",
            f"{each.added_s * 1e6:,.0f}",
            _around(each.hit_s),
        )
    return shown


def as_json(found: list[DropIn]) -> list[dict[str, object]]:
    """Return the figures as JSON values, times in seconds."""
    return [asdict(each) | {"added_s": each.added_s} for each in found]


def _around(figures: Spread) -> str:
    low, median, high = (each * 1e6 for each in (figures.low, figures.median, figures.high))
    return f"{median:,.0f} ({low:,.0f}-{high:,.0f})"
