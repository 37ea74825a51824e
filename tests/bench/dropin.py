"""What the drop-ins before a model add to a miss of the bare call, and how fast a hit is.

The Messages API is the local one, which answers at once: the ratio is the worst there is. Beside an
answer that takes seconds, what is added does not show.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from anthropic import Anthropic, AsyncAnthropic
from rich import box
from rich.table import Table

from mge_cache import Timeouts
from mge_cache.anthropic import EnhancedAnthropicClient, PromptCacheMiddleware
from mge_cache.langchain import MgeCache
from tests.bench import servers
from tests.bench.chat_model import SdkChatModel
from tests.bench.measure import LoadError, Spread, percentile, spread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    Ask = Callable[[str], Awaitable[object]]

MODEL = "claude-sonnet-5-5"
_PATIENT = Timeouts(get_s=5.0, set_s=5.0)
KEY = "made-up"
WINDOW = "5ms"
"""How long a batch waits for more requests. The default, 500 ms, would be all that is seen."""


@dataclass(frozen=True, slots=True)
class Case:
    """A call by itself and through a drop-in, which counts its failures, each with a prompt."""

    kind: str
    bare: Ask
    cached: Ask
    failures: Callable[[], int]


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
    """Take turns between the bare calls, misses and hits, one call at a time."""
    shared = ("--redis-url", f"unix://{redis_socket}", "--store-timeout", "5s")
    async with servers.messages(folder, "dropin-messages", "--delay", "0") as base_url:
        options = (*shared, "--anthropic-base-url", base_url, "--batch-window", WINDOW)
        key = {"ANTHROPIC_API_KEY": KEY}
        async with (
            servers.sidecar(folder, "dropin", *options, environment=key) as sidecar,
            cases(base_url, sidecar.target, _PATIENT) as found,
        ):
            return [await _rounds(case, rounds=rounds) for case in found]


@contextlib.asynccontextmanager
async def cases(base_url: str, target: str, timeouts: Timeouts | None) -> AsyncIterator[list[Case]]:
    """Yield a case for each drop-in before a model."""
    async with (
        AsyncAnthropic(api_key=KEY, base_url=base_url) as bare,
        PromptCacheMiddleware(target=target, timeouts=timeouts) as cache,
        EnhancedAnthropicClient(client=bare, target=target, timeouts=timeouts) as enhanced,
        EnhancedAnthropicClient(
            client=bare, target=target, timeouts=timeouts, enable_v2_batching=True
        ) as batching,
        MgeCache(target=target, timeouts=timeouts) as langchain,
    ):
        with Anthropic(api_key=KEY, base_url=base_url) as sync, cache:
            cached = bare.with_middleware(cache)
            model, cached_model = (
                SdkChatModel(bare, sync, cache=kept) for kept in (False, langchain)
            )
            whole = partial(_whole, bare)
            sync_cached = sync.with_middleware(cache)
            streamed = partial(_streamed, bare), partial(_streamed, cached)
            threads = partial(_whole_sync, sync), partial(_whole_sync, sync_cached)
            awaited = partial(_ainvoked, model), partial(_ainvoked, cached_model)
            invoked = partial(_invoked, model), partial(_invoked, cached_model)
            yield [
                Case("create", whole, partial(_whole, cached), lambda: cache.failures),
                Case("stream", *streamed, lambda: cache.failures),
                Case("create, sync", *threads, lambda: cache.failures),
                Case(
                    "generate_with_caching",
                    whole,
                    partial(_generated, enhanced),
                    lambda: enhanced.failures,
                ),
                Case(
                    f"the same, batching {WINDOW}",
                    whole,
                    partial(_generated, batching),
                    lambda: batching.failures,
                ),
                Case("LangChain's ainvoke", *awaited, lambda: langchain.failures),
                Case("LangChain's invoke", *invoked, lambda: langchain.failures),
            ]
        failures = cache.failures + enhanced.failures + batching.failures + langchain.failures
        if timeouts is not None and (failures or set(cache.counts) != {"hit", "miss"}):
            raise LoadError(f"the drop-ins did something else: {cache.counts}, {failures} failures")


async def _rounds(case: Case, *, rounds: int) -> DropIn:
    prompts = (f"{case.kind} {number}" for number in itertools.count())
    same = itertools.repeat(next(prompts))
    await case.bare(next(same))
    await case.cached(next(same))
    taken: dict[str, list[float]] = {"bare": [], "miss": [], "hit": []}
    calls = _CALLS if rounds > _QUICK_ROUNDS else _CALLS // 2
    for _ in range(rounds):
        taken["bare"].append(await _p50(case.bare, prompts, calls))
        taken["miss"].append(await _p50(case.cached, prompts, calls))
        taken["hit"].append(await _p50(case.cached, same, calls))
    spreads = {name: spread(values) for name, values in taken.items()}
    return DropIn(
        case.kind,
        spreads["bare"],
        spreads["miss"],
        spreads["hit"],
        spreads["miss"].median / spreads["bare"].median,
    )


_CALLS = 40
"""Calls of a round, of which it gives the median; half as many where there are few rounds."""
_QUICK_ROUNDS = 3


async def _p50(ask: Ask, prompts: Iterator[str], calls: int) -> float:
    taken_s = []
    for prompt in itertools.islice(prompts, calls):
        started = time.perf_counter()
        await ask(prompt)
        taken_s.append(time.perf_counter() - started)
    return percentile(taken_s, 50)


async def _whole(client: AsyncAnthropic, prompt: str) -> None:
    await client.messages.create(
        model=MODEL, max_tokens=500, messages=[{"role": "user", "content": prompt}]
    )


async def _whole_sync(client: Anthropic, prompt: str) -> None:
    # In the loop's own thread: nothing else runs here, and a thread would be measured too.
    client.messages.create(
        model=MODEL, max_tokens=500, messages=[{"role": "user", "content": prompt}]
    )


async def _streamed(client: AsyncAnthropic, prompt: str) -> None:
    async with client.messages.stream(
        model=MODEL, max_tokens=500, messages=[{"role": "user", "content": prompt}]
    ) as stream:
        await stream.until_done()


async def _generated(client: EnhancedAnthropicClient, prompt: str) -> None:
    await client.generate_with_caching(prompt, model=MODEL, max_tokens=500)


async def _ainvoked(model: SdkChatModel, prompt: str) -> None:
    await model.ainvoke(prompt)


async def _invoked(model: SdkChatModel, prompt: str) -> None:
    model.invoke(prompt)


def table(found: list[DropIn]) -> Table:
    """Return the figures as a table."""
    shown = Table(
        title="Drop-ins before a model, one call at a time, of an API that answers at once: "
        "p50 µs (quartiles)",
        box=box.SIMPLE_HEAD,
    )
    shown.add_column("call")
    for heading in ("bare", "miss", "ratio", "added µs", "hit"):
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
