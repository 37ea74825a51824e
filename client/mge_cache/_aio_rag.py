"""The RAG calls of the asyncio client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mge_cache import _wire_rag
from mge_cache._aio_base import AsyncClientBase
from mge_cache._rag_types import TOP_K, Certainty
from mge_cache._wire_parts import set_result_of
from mge_cache._wire_rag import RagFlight, Wanted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from mge_cache._rag_types import RagDocument, RagHit, RagMiss, RagQuery, RagResult
    from mge_cache._types import Lease, SetResult
    from mge_cache._wire_rag import Documents, RagFound
    from mge_cache.v1 import cache_service_pb2 as pb


class AsyncRagCalls(AsyncClientBase):
    """Looks retrievals' results up and stores them."""

    async def retrieve_or_compute(
        self,
        query: RagQuery,
        retrieve: Callable[[], Awaitable[Iterable[RagDocument]]],
        *,
        top_k: int = TOP_K,
        min_similarity: float | None = None,
        allow_similar: bool = True,
        min_certainty: Certainty = Certainty.SIMILAR,
        exact_search: bool = False,
        cost_usd: float | None = None,
        ttl_s: float | None = None,
        masterplan: str | None = None,
        tags: Sequence[str] = (),
        wait_s: float = 60.0,
    ) -> RagResult:
        """Return what was retrieved for this query or a near enough one, or retrieve it.

        As ``get_or_compute``, fail-open too. ``retrieve`` searches for ``top_k`` documents (1 to
        100) and returns them best first; more than that (over-fetched), each with its embedding,
        make similar hits better, and are not returned from here. ``exact_search``, ``cost_usd``:
        see ``store_rag``; the other conditions: see ``query_rag``.
        """
        wanted = Wanted(
            query=query,
            top_k=top_k,
            min_similarity=min_similarity,
            allow_similar=allow_similar,
            min_certainty=min_certainty,
        )
        message = _wire_rag.store_request(
            query,
            top_k=top_k,
            exact_search=exact_search,
            cost_usd=cost_usd,
            ttl_s=ttl_s,
            masterplan=masterplan,
            tags=tags,
        )

        async def retrieved() -> Documents:
            return _wire_rag.documents_of(await retrieve())

        got = await self._flights.run(
            RagFlight(wanted, message),
            retrieved,
            look_up=self._query_rag,
            store=self._store_rag,
            wait_s=wait_s,
        )
        return _wire_rag.result_of(got, top_k=top_k)

    async def query_rag(
        self,
        query: RagQuery,
        *,
        top_k: int = TOP_K,
        min_similarity: float | None = None,
        allow_similar: bool = True,
        min_certainty: Certainty = Certainty.SIMILAR,
        lease_ttl_s: float = 0.0,
        wait_s: float = 0.0,
    ) -> RagHit | RagMiss:
        """Look a retrieval's result up: of this query, or of the most similar one.

        ``min_similarity`` can raise the sidecar's threshold, a cosine, and not lower it;
        ``allow_similar`` = False takes only the same query's, ``min_certainty`` = CERTIFIED only
        what the search itself would return. The first caller that misses is handed a lease, for
        ``lease_ttl_s`` (10 ms to 10 minutes, 0: 60 s) unless it is held; the others wait for its
        result for up to ``wait_s``.
        """
        wanted = Wanted(
            query=query,
            top_k=top_k,
            min_similarity=min_similarity,
            allow_similar=allow_similar,
            min_certainty=min_certainty,
        )
        message = wanted.request(wait_s=wait_s, lease_ttl_s=lease_ttl_s)
        return await self._query_rag(message, wait_s, patient=True)

    async def store_rag(
        self,
        query: RagQuery,
        documents: Iterable[RagDocument],
        *,
        top_k: int | None = None,
        exact_search: bool = False,
        cost_usd: float | None = None,
        ttl_s: float | None = None,
        masterplan: str | None = None,
        tags: Sequence[str] = (),
        lease: Lease | None = None,
        compute_s: float = 0.0,
        preloaded: bool = False,
    ) -> SetResult:
        """Store what a retrieval found, best first.

        ``top_k``: for how many documents the search was asked; None: for as many as there are. More
        than that, each with its embedding, make similar hits better. ``exact_search``: the search
        was exact, over unit vectors by cosine or Euclidean distance, and the embeddings are those
        of its index; only then can similar hits be certified. ``cost_usd``: of the retrieval; None:
        the sidecar's setting. ``ttl_s``: None is the sidecar's default. The others: see ``set``.
        """
        message = _wire_rag.store_request(
            query,
            top_k=top_k,
            exact_search=exact_search,
            cost_usd=cost_usd,
            ttl_s=ttl_s,
            masterplan=masterplan,
            tags=tags,
            preloaded=preloaded,
        )
        found = _wire_rag.documents_of(documents)
        return await self._store_rag(
            _wire_rag.complete(message, found, lease=lease, compute_s=compute_s), patient=True
        )

    async def _query_rag(
        self, message: pb.QueryRAGRequest, wait_s: float, *, patient: bool = False
    ) -> RagFound:
        response = await self._look_up(self.stub.QueryRAG, message, wait_s, patient=patient)
        return _wire_rag.found_of(response)

    async def _store_rag(self, message: pb.StoreRAGRequest, *, patient: bool = False) -> SetResult:
        response = await self._store(self.stub.StoreRAG, message, patient=patient)
        return set_result_of(response)
