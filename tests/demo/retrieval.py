"""The RAG part of the demo: questions about the standard library, answered from its docstrings."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from mge_cache import MgeCacheError, RagDocument, RagHitKind, RagQuery
from tests.demo.accounts import Comparison
from tests.demo.embedder import MODEL, Embedder, search
from tests.demo.work import CallFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mge_cache import AsyncClient, RagResult, Stats
    from tests.demo.questions import Question
    from tests.demo.texts import Text

NAMESPACE = "demo-rag"
TOP_K = 5
CANDIDATES = 20
SEARCH_USD = 0.0005
"""What a search costs; an assumption."""
_SEARCH_S = (0.02, 0.06)
"""How long a vector store on another machine takes, at a delay of 1; it is imitated by waiting."""
_AT_ONCE = 4
_ROUNDING = 1e-5
RETRIEVED, EXACT, SIMILAR, CERTIFIED = "retrieved", "exact", "similar", "similar, certified"


@dataclass(frozen=True, slots=True)
class Retrieved:
    """A question, and how its documents were found.

    ``right`` of them are what the search itself would return.
    """

    question: Question
    how: str
    cached_query: str
    similarity: float
    latency_s: float
    saved_usd: float
    right: int
    documents: int


class Searcher:
    """Answers questions with docstrings: by exact dense retrieval, through the cache."""

    def __init__(
        self, cache: AsyncClient, texts: Sequence[Text], *, delay: float, seed: int
    ) -> None:
        names = [text.name.partition(",")[0] for text in texts]
        self._embedder = Embedder(
            [f"{name} {text.docstring}" for name, text in zip(names, texts, strict=True)],
            seed=seed,
        )
        self._texts = texts
        self._numbers = {text.name: number for number, text in enumerate(texts)}
        self._cache = cache
        self._delay = delay
        self._chance = random.Random(seed)

    async def answer(self, question: Question) -> Retrieved:
        """Find the documents of a question."""
        vector = self._embedder.embed(question.words)

        async def retrieve() -> list[RagDocument]:
            await asyncio.sleep(self._delay * self._chance.uniform(*_SEARCH_S))
            best, cosines = search(self._embedder.rows, vector, CANDIDATES)
            return [
                RagDocument(
                    self._texts[number].name,
                    self._texts[number].docstring.encode(),
                    score=float(cosine),
                    embedding=self._embedder.rows[number],
                )
                for number, cosine in zip(best, cosines, strict=True)
            ]

        query = RagQuery(
            embedding_model=MODEL,
            embedding=vector,
            query=question.words,
            collection="docstrings",
            namespace=NAMESPACE,
        )
        start = perf_counter()
        result = await self._cache.retrieve_or_compute(
            query, retrieve, top_k=TOP_K, exact_search=True, cost_usd=SEARCH_USD
        )
        latency_s = perf_counter() - start
        return Retrieved(
            question,
            _how(result),
            result.hit.cached_query if result.hit else "",
            result.hit.similarity if result.hit else 0.0,
            latency_s,
            result.cost_saved_usd,
            self._right(vector, result),
            len(result.documents),
        )

    def _right(self, vector: NDArray[np.float32], result: RagResult) -> int:
        """Count the documents that are as close as the search's own. Of ties, any will do."""
        rows = self._embedder.rows
        _, cosines = search(rows, vector, TOP_K)
        numbers = [self._numbers[document.id] for document in result.documents]
        return int(np.count_nonzero(rows[numbers] @ vector >= cosines[-1] - _ROUNDING))


async def answer_all(searcher: Searcher, questions: Sequence[Question]) -> list[Retrieved]:
    """Answer the questions in their order, a few at once. Raises CallFailedError."""
    done: list[Retrieved] = []
    remaining = iter(questions)

    async def worker() -> None:
        for question in remaining:
            done.append(await searcher.answer(question))  # noqa: PERF401 (others append too)

    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(_AT_ONCE):
                workers.create_task(worker())
    except* MgeCacheError as group:
        first = group.exceptions[0]
        raise CallFailedError(f"{type(first).__name__}: {first}") from first
    return done


def compare_retrievals(stats: Stats, done: Sequence[Retrieved]) -> list[Comparison]:
    """Set what the sidecar counted beside what the client saw, and certificates beside the truth.

    ``stats`` are those of the demo's namespace.
    """
    layers = {layer.cache_layer: layer for layer in stats.layers}
    counts = {how: sum(each.how == how for each in done) for how in (EXACT, SIMILAR, CERTIFIED)}
    similar = counts[SIMILAR] + counts[CERTIFIED]
    certified = [each for each in done if each.how == CERTIFIED]
    saved_usd = layers["rag"].saved_usd + layers["rag_similarity"].saved_usd
    return [
        Comparison("exact hits", layers["rag"].total_hits, counts[EXACT], "client"),
        Comparison("similar hits", layers["rag_similarity"].total_hits, similar, "client"),
        Comparison("certified hits", stats.rag_index.certified_hits, len(certified), "client"),
        Comparison("saved by retrievals", saved_usd, sum(e.saved_usd for e in done), "client"),
        Comparison(
            "documents of certified hits",
            sum(each.right for each in certified),
            sum(each.documents for each in certified),
            "search itself",
        ),
    ]


def _how(result: RagResult) -> str:
    if result.hit is None:
        return RETRIEVED
    if result.hit.kind is RagHitKind.EXACT:
        return EXACT
    return CERTIFIED if result.hit.certified else SIMILAR
