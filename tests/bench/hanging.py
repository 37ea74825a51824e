"""What a call costs more while the sidecar hangs, and how soon it is used again after that."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from mge_cache import AsyncClient, Client, PromptRequest, RagQuery
from tests.bench import dropin, servers
from tests.bench.dropin import Case
from tests.bench.measure import LoadError, percentile
from tests.bench.retrievers import retriever_cases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from tests.bench.dropin import Ask
    from tests.bench.processes import Process

_CALLS = 9
"""Of each case in each round; the first one finds out."""
_PAUSE_S = 0.015
"""Between calls. All together take longer than what counts as a pause of a busy machine."""
_LOADS_S = 1.0
"""How long a sidecar that has just started, or loads something, stands still for moments."""
_BACK_MAX_S = 20.0


@dataclass(frozen=True, slots=True)
class Hanging:
    """Seconds by which calls exceed the bare call's median, and until the sidecar is used again."""

    kind: str
    first_s: list[float]
    later_s: list[float]
    back_s: list[float]


async def measure_hanging(folder: Path, *, rounds: int) -> list[Hanging]:
    """Stop and continue a sidecar for each drop-in in turn; all have their usual time limits."""
    logging.getLogger("mge_cache").setLevel(logging.ERROR)  # that it hangs is no news here
    async with AsyncExitStack() as stack:
        base_url = await stack.enter_async_context(
            servers.messages(folder, "hanging-messages", "--delay", "0")
        )
        sidecar = await stack.enter_async_context(
            servers.sidecar(
                folder,
                "hanging",
                *("--redis-url", "memory://", "--anthropic-base-url", base_url),
                *("--batch-window", dropin.WINDOW),
                environment={"ANTHROPIC_API_KEY": dropin.KEY},
            )
        )
        await _load_all(sidecar.target)
        cases = await _plain(stack, sidecar.target)
        cases += await stack.enter_async_context(dropin.cases(base_url, sidecar.target, None))
        cases += await retriever_cases(stack, sidecar.target)
        return [await _measure(case, sidecar.process, rounds) for case in cases]


async def _load_all(target: str) -> None:
    """Have the sidecar load what it loads at first uses: a client takes note of such pauses."""
    async with AsyncClient(target) as client:
        request = PromptRequest(model=dropin.MODEL, prompt="load", parameters={"max_tokens": 8})
        await client.generate(request).result()
        await client.query_rag(
            RagQuery(embedding_model="m", embedding=[1.0, 0.0], query="load", collection="c")
        )
    await asyncio.sleep(_LOADS_S)


async def _plain(stack: AsyncExitStack, target: str) -> list[Case]:
    client = await stack.enter_async_context(AsyncClient(target))
    sync = stack.enter_context(Client(target))

    async def bare(_prompt: str) -> str:
        return "an answer"

    async def cached(prompt: str) -> None:
        request = PromptRequest(model="m", prompt=prompt)
        await client.get_or_compute(request, lambda: bare(prompt))

    async def cached_sync(prompt: str) -> None:
        sync.get_or_compute(PromptRequest(model="m", prompt=prompt), lambda: "an answer")

    return [
        Case("AsyncClient.get_or_compute", bare, cached, lambda: client.failures),
        Case("Client.get_or_compute", bare, cached_sync, lambda: sync.failures),
    ]


async def _measure(case: Case, sidecar: Process, rounds: int) -> Hanging:
    prompts = (f"hanging {case.kind} {number}" for number in itertools.count())
    usual_s = percentile(await _times(case.bare, prompts), 50)
    found = Hanging(case.kind, [], [], [])
    for _ in range(rounds):
        for prompt in itertools.islice(prompts, _CALLS):
            await case.cached(prompt)
        sidecar.send(signal.SIGSTOP)
        try:
            taken_s = [each - usual_s for each in await _times(case.cached, prompts)]
        finally:
            sidecar.send(signal.SIGCONT)
        found.first_s.append(taken_s[0])
        found.later_s.extend(taken_s[1:])
        found.back_s.append(await _back(case, prompts))
    return found


async def _back(case: Case, prompts: Iterator[str]) -> float:
    """Call until a call goes through the sidecar again; returns the seconds until it began."""
    started = time.perf_counter()
    while (since_s := time.perf_counter() - started) < _BACK_MAX_S:
        failures = case.failures()
        await case.cached(next(prompts))
        if case.failures() == failures:
            return since_s
        await asyncio.sleep(0.002)
    raise LoadError(f"{case.kind}: the sidecar is not asked again")


async def _times(ask: Ask, prompts: Iterator[str]) -> list[float]:
    taken_s = []
    for prompt in itertools.islice(prompts, _CALLS):
        started = time.perf_counter()
        await ask(prompt)
        taken_s.append(time.perf_counter() - started)
        await asyncio.sleep(_PAUSE_S)
    return taken_s


def show_hanging(found: list[Hanging], console: Console) -> None:
    """Print the table."""
    table = Table(
        title="Sidecar hanging (SIGSTOP): what a call costs more than the bare one, "
        f"{len(found[0].first_s)} hangs",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("call")
    for heading in ("first: p50 ms", "max", "later: p50 ms", "max", "back after: p50 ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in found:
        table.add_row(
            each.kind,
            _ms(percentile(each.first_s, 50)),
            _ms(max(each.first_s)),
            _ms(percentile(each.later_s, 50)),
            _ms(max(each.later_s)),
            _ms(percentile(each.back_s, 50)),
        )
    console.print(table)


def as_json(found: list[Hanging]) -> list[dict[str, object]]:
    """Return the figures as JSON values, in seconds."""
    return [asdict(each) for each in found]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f}"
