"""The application that is measured: it works through a masterplan, atom by atom.

``python -m tests.validate.application PLAN --anthropic URL [--sidecar TARGET]``: with a sidecar it
uses the drop-ins, ``CachedRetriever`` and ``EnhancedAnthropicClient``, as an application would;
without one the bare retriever and the bare SDK. Prints a JSON object at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import anthropic

from mge_cache import Timeouts
from mge_cache.anthropic import EnhancedAnthropicClient
from mge_cache.retrieval import CachedRetriever
from tests.demo.embedder import MODEL as EMBEDDING_MODEL
from tests.demo.embedder import Embedder, search
from tests.demo.texts import collect
from tests.validate.plan import TEXTS, Plan, read_plan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from numpy.typing import NDArray

MODEL = "claude-sonnet-5-5"
SYSTEM = "You answer questions about Python's standard library from the given documentation."
MAX_TOKENS = 400
TOP_K = 3
SEARCH_USD = 0.0005
"""What a search of a managed vector store costs; an assumption."""
_SEARCH_S = (0.02, 0.06)
"""How long the way to a vector store on another machine takes; it is imitated by waiting."""
_PATIENT = Timeouts(get_s=5.0, set_s=5.0)
"""So that a busy machine's pauses are not measured as misses."""


@dataclass(frozen=True, slots=True)
class Ways:
    """How the application retrieves and asks: through the cache, or not."""

    retrieve: Callable[[str], Awaitable[list[dict[str, Any]]]]
    ask: Callable[[str], Awaitable[str]]


class VectorStore:
    """Exact dense retrieval over the docstrings of the standard library."""

    def __init__(self, *, delay: float) -> None:
        self._texts = collect(TEXTS)
        self._embedder = Embedder([f"{text.name} {text.docstring}" for text in self._texts])
        self._delay = delay
        self._chance = random.Random(1)

    def embed(self, question: str) -> NDArray[Any]:
        """Embed a question."""
        return self._embedder.embed(question)

    async def retrieve(self, query: str, embedding: Any, k: int) -> list[dict[str, Any]]:  # noqa: ARG002
        """Return the ``k`` nearest documents."""
        await asyncio.sleep(self._delay * self._chance.uniform(*_SEARCH_S))
        best, cosines = search(self._embedder.rows, embedding, k)
        return [
            {
                "id": self._texts[number].name,
                "text": self._texts[number].docstring[:600],
                "score": float(cosine),
                "embedding": self._embedder.rows[number].tolist(),
            }
            for number, cosine in zip(best, cosines, strict=True)
        ]


async def work_through(plan: Plan, ways: Ways, *, concurrency: int) -> float:
    """Answer all atoms, so many at once; return the seconds that it took."""
    remaining = iter(plan.atoms)

    async def worker() -> None:
        for question in remaining:
            documents = await ways.retrieve(question)
            context = "\n\n".join(document["text"] for document in documents)
            answer = await ways.ask(f"{context}\n\nQuestion: {question}")
            if not answer:
                raise ValueError("an atom got no answer")

    started_s = perf_counter()
    async with asyncio.TaskGroup() as workers:
        for _ in range(concurrency):
            workers.create_task(worker())
    return perf_counter() - started_s


async def run(options: argparse.Namespace) -> float:
    """Work through the plan as the options say; return the seconds that it took."""
    plan = read_plan(options.plan)
    store = await asyncio.to_thread(VectorStore, delay=options.delay)
    # trust_env: no proxy and no other setting of this machine comes between.
    http = anthropic.DefaultAsyncHttpxClient(trust_env=False)
    async with anthropic.AsyncAnthropic(
        base_url=options.anthropic, api_key="none-needed", http_client=http
    ) as provider:
        if options.sidecar is None:
            return await work_through(plan, _bare(store, provider), concurrency=options.concurrency)
        async with (
            EnhancedAnthropicClient(
                enable_v2_caching=True,
                enable_v2_batching=True,
                client=provider,
                target=options.sidecar,
                timeouts=_PATIENT,
                namespace=options.namespace,
            ) as client,
            CachedRetriever(
                store.retrieve,
                embed=store.embed,
                embedding_model=EMBEDDING_MODEL,
                collection="stdlib",
                namespace=options.namespace,
                k=TOP_K,
                exact_search=True,
                cost_usd=SEARCH_USD,
                masterplan=plan.name,
                target=options.sidecar,
                timeouts=_PATIENT,
            ) as retriever,
        ):
            ways = _cached(retriever, client, plan)
            return await work_through(plan, ways, concurrency=options.concurrency)


def _bare(store: VectorStore, provider: anthropic.AsyncAnthropic) -> Ways:
    async def retrieve(question: str) -> list[dict[str, Any]]:
        return await store.retrieve(question, store.embed(question), TOP_K)

    async def ask(prompt: str) -> str:
        message = await provider.messages.create(
            model=MODEL,
            max_tokens=MAX_TOKENS,
            system=SYSTEM,
            messages=[{"role": "user", "content": prompt}],
        )
        return "".join(block.text for block in message.content if block.type == "text")

    return Ways(retrieve, ask)


def _cached(
    retriever: CachedRetriever[dict[str, Any]], client: EnhancedAnthropicClient, plan: Plan
) -> Ways:
    async def retrieve(question: str) -> list[dict[str, Any]]:
        return list(await retriever.aretrieve(question))

    async def ask(prompt: str) -> str:
        answer = await client.generate_with_caching(
            prompt,
            model=MODEL,
            masterplan_id=plan.name,
            max_tokens=MAX_TOKENS,
            system=SYSTEM,
        )
        return answer.text

    return Ways(retrieve, ask)


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.validate.application")
    parser.add_argument("plan", type=Path)
    parser.add_argument("--anthropic", required=True, metavar="URL")
    parser.add_argument("--sidecar", metavar="TARGET")
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--delay", type=float, default=1.0)
    elapsed_s = asyncio.run(run(parser.parse_args()))
    sys.stdout.write(json.dumps({"elapsed_s": elapsed_s}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
