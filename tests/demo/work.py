"""The work: calls of the Messages API through the real SDK, with and without the cache."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from anthropic import AnthropicError

from mge_cache import Answer, MgeCacheError, PromptRequest, Source, Usage
from tests.messages_server.answers import bill_usd

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from anthropic import AsyncAnthropic

    from mge_cache import AsyncClient
    from tests.demo.texts import Text

MODEL = "claude-sonnet-5-5"
NAMESPACE = "demo"
MAX_TOKENS = 400
SYSTEM = "You explain code to a colleague, in a few sentences."


class CallFailedError(Exception):
    """A call failed, with or without the cache."""


@dataclass(frozen=True, slots=True)
class Done:
    """A call: which text it was about, where the answer came from, and how long it took.

    ``price_usd`` is what the answer costs when it is computed, by the tokens that were counted;
    ``waited`` tells hits on answers that were not there yet when the call began.
    """

    text: int
    source: Source
    latency_s: float
    price_usd: float
    saved_usd: float
    waited: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """All calls, in the order in which they ended, and the time they took together."""

    calls: list[Done]
    elapsed_s: float


def zipf_sequence(*, calls: int, texts: int, exponent: float, seed: int) -> list[int]:
    """Choose a text for each call, by Zipf's law.

    The text of rank r has a weight of 1 / r ** exponent; which text has which rank is random.
    """
    chance = random.Random(seed)
    ranks = list(range(texts))
    chance.shuffle(ranks)
    weights = [1 / rank**exponent for rank in range(1, texts + 1)]
    return chance.choices(ranks, weights, k=calls)


class Explainer:
    """Has functions explained. One event loop."""

    def __init__(self, provider: AsyncAnthropic, cache: AsyncClient, texts: Sequence[Text]) -> None:
        self._provider = provider
        self._cache = cache
        self._texts = texts
        self._computed_at: dict[int, float] = {}

    async def with_cache(self, text: int) -> Done:
        """Explain one, unless that has been done before."""
        request = PromptRequest(
            model=MODEL,
            prompt=self._texts[text].prompt,
            parameters={"max_tokens": MAX_TOKENS, "system": SYSTEM},
            namespace=NAMESPACE,
        )
        start = perf_counter()
        answer = await self._cache.get_or_compute(
            request, lambda: self._explain(text), masterplan="explain the standard library"
        )
        latency_s = perf_counter() - start
        hit = answer.source is not Source.COMPUTED
        waited = hit and self._computed_at[text] > start
        price_usd = _price_usd(answer)
        return Done(text, answer.source, latency_s, price_usd, answer.cost_saved_usd, waited)

    async def without_cache(self, text: int) -> Done:
        """Explain one."""
        start = perf_counter()
        answer = await self._explain(text)
        latency_s = perf_counter() - start
        return Done(text, Source.COMPUTED, latency_s, _price_usd(answer), 0.0, waited=False)

    async def _explain(self, number: int) -> Answer:
        message = await self._provider.messages.create(
            model=MODEL,
            max_tokens=MAX_TOKENS,
            system=SYSTEM,
            messages=[{"role": "user", "content": self._texts[number].prompt}],
        )
        self._computed_at[number] = perf_counter()
        text = "".join(block.text for block in message.content if block.type == "text")
        usage = Usage(
            input_tokens=message.usage.input_tokens, output_tokens=message.usage.output_tokens
        )
        return Answer.from_text(text, usage=usage)


async def work_through(
    sequence: Iterable[int],
    ask: Callable[[int], Awaitable[Done]],
    *,
    concurrency: int,
    progress: Callable[[Done], None],
) -> Finished:
    """Make the calls in their order, ``concurrency`` of them at once.

    The first call that fails ends the others; raises ``CallFailedError``.
    """
    calls: list[Done] = []
    remaining = iter(sequence)

    async def worker() -> None:
        for text in remaining:
            done = await ask(text)
            calls.append(done)
            progress(done)

    start = perf_counter()
    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(concurrency):
                workers.create_task(worker())
    except* (MgeCacheError, AnthropicError) as group:
        first = group.exceptions[0]
        raise CallFailedError(f"{type(first).__name__}: {first}") from first
    return Finished(calls, perf_counter() - start)


def _price_usd(answer: Answer) -> float:
    usage = answer.usage or Usage()
    return bill_usd(MODEL, usage.input_tokens, usage.output_tokens)
