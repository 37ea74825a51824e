"""The batcher part of the demo: a masterplan's atoms, merged into fewer calls by the sidecar."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from mge_cache import AnswerSource, MgeCacheError, PromptRequest, Strategy
from tests.demo.accounts import Comparison, Served, read_served
from tests.demo.work import CallFailedError, zipf_sequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mge_cache import AsyncClient, Completion, Stats
    from tests.demo.texts import Text

NAMESPACE = "demo-atoms"
MODEL = "claude-haiku-4-5"
"""Its own prompt cache takes prefixes from 4,096 tokens on: merging pays below."""
SYSTEM = "\n".join(
    f"Rule {number}: {rule}"
    for number, rule in enumerate(
        (
            "each task is one atom of a plan; do that one and no other.",
            "say what the result is, then how somebody else can check it.",
            "name every assumption that you had to make, and why it is safe.",
            "write plain sentences, without headings, lists or greetings.",
            "where the task leaves something open, take the simplest choice.",
            "never ask back: nobody reads the answer before the plan is done.",
        )
        * 6,
        start=1,
    )
)
"""About 700 tokens."""
MAX_TOKENS = 400


@dataclass(frozen=True, slots=True)
class Pass:
    """All atoms once: their answers, the time they took, what the Messages server served."""

    answers: list[Completion]
    elapsed_s: float
    served: Served

    def count(self, source: AnswerSource) -> int:
        """Count the answers that came from somewhere."""
        return sum(answer.source is source for answer in self.answers)

    @property
    def batches(self) -> dict[int, int]:
        """How many batches there were of each size, the largest first."""
        sizes = Counter(
            answer.batch_size for answer in self.answers if answer.source is AnswerSource.UPSTREAM
        )
        return {size: sizes[size] // size for size in sorted(sizes, reverse=True)}


@dataclass(frozen=True, slots=True)
class Batched:
    """The atoms for the first time, and once more."""

    different: int
    first: Pass
    again: Pass


def atoms(texts: Sequence[Text], *, count: int, exponent: float, seed: int) -> list[str]:
    """Write the atoms of a plan; some occur often, as plans repeat themselves (Zipf)."""
    sequence = zipf_sequence(
        calls=count, texts=min(len(texts), count), exponent=exponent, seed=seed
    )
    return [f"Write a test for {texts[number].name}." for number in sequence]


async def run_plan(
    cache: AsyncClient, prompts: Sequence[str], base_url: str, *, at_once: int
) -> Batched:
    """Have all atoms answered, twice. Raises CallFailedError."""
    first = await _run_once(cache, prompts, base_url, at_once=at_once)
    again = await _run_once(cache, prompts, base_url, at_once=at_once)
    return Batched(len(set(prompts)), first, again)


async def _run_once(
    cache: AsyncClient, prompts: Sequence[str], base_url: str, *, at_once: int
) -> Pass:
    before = await asyncio.to_thread(read_served, base_url)
    requests = [
        PromptRequest(
            model=MODEL,
            prompt=prompt,
            parameters={"max_tokens": MAX_TOKENS, "system": SYSTEM},
            namespace=NAMESPACE,
        )
        for prompt in prompts
    ]
    start = perf_counter()
    many = cache.generate_many(
        requests,
        masterplan="test the standard library",
        strategy=Strategy.MERGE,
        max_in_flight=at_once,
    )
    try:
        async with contextlib.aclosing(many) as results:
            answers = [each.result() async for each in results]
    except MgeCacheError as error:
        raise CallFailedError(f"{type(error).__name__}: {error}") from error
    elapsed_s = perf_counter() - start
    served = (await asyncio.to_thread(read_served, base_url)).since(before)
    return Pass(answers, elapsed_s, served)


def compare_atoms(stats: Stats, batched: Batched) -> list[Comparison]:
    """Set the sidecar's statistics, those of the atoms' namespace, beside the other accounts."""
    layer, passes = stats.layers[0], (batched.first, batched.again)
    answers = [answer for each in passes for answer in each.answers]
    asked = sum(each.count(AnswerSource.UPSTREAM) for each in passes)
    calls = sum(each.served.calls for each in passes)
    billed_usd = sum(each.served.billed_usd for each in passes)
    server, client = "Messages server", "client"
    return [
        Comparison("calls for atoms", stats.batcher.upstream_calls["ok"], calls, server),
        Comparison("dollars spent on atoms", layer.spent_usd, billed_usd, server),
        Comparison(
            "atoms' shares of it", layer.spent_usd, sum(a.cost_usd for a in answers), client
        ),
        Comparison("atoms asked", layer.total_misses, asked, client),
        Comparison("atoms in batches", stats.batcher.requests, asked, client),
        Comparison("atoms shared or cached", layer.total_hits, len(answers) - asked, client),
        Comparison(
            "dollars saved by atoms",
            layer.saved_usd,
            sum(a.cost_saved_usd for a in answers),
            client,
        ),
    ]
