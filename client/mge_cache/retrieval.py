"""A cache in front of a retriever, in one line.

    retriever = CachedRetriever(search, embed=embed, embedding_model="minilm", collection="faq")
    documents = retriever.retrieve("How do I log in?")  # or: await retriever.aretrieve(...)

``search(query, embedding, k)`` is what the application has already. It is asked only if neither the
same query nor one that is near enough has been asked before.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from mge_cache._cached_documents import NotStoredError
from mge_cache._retrieval_base import RetrieverBase
from mge_cache._retrieval_call import Documents, RetrieverStats

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from mge_cache._rag_types import RagDocument

__all__ = ["CachedRetriever", "Documents", "RetrieverStats"]

D = TypeVar("D")


class CachedRetriever(RetrieverBase[D]):
    """Asks the cache first, then the source, and stores what that returned in the background.

    ``source`` takes a query, its embedding and the number of documents wanted, and returns these
    best first. It is a callable, sync or async, or an object with the method ``retrieve`` or
    ``search`` (``aretrieve``, ``asearch`` for async callers). ``embed`` makes the embedding of a
    query for which a caller gives none; a callable, or an object with ``embed_query`` or ``embed``.
    It is called before the look-up, as the cache finds similar queries by it.

    Documents can be of any shape; they come back with the same types and equal to what they were
    (docs/retrieval.md says what cannot, and is returned without being stored). What the source
    raises is raised here, unchanged. If the sidecar is down, the source is asked.

    - ``embedding_model``, ``collection``: name what made the embeddings and what is searched;
      ``index_version``, ``filter``, ``namespace``: see ``RagQuery``. ``filter`` is what the source
      applies by itself; its values are JSON values.
    - ``k``: documents of a call that does not say, 1 to 100.
    - ``over_fetch``: by how much more the source is asked for where documents have embeddings, 1 to
      100, and 200 documents at most: so similar hits are ranked anew. ``embedding_of`` returns a
      document's embedding; without it, its ``embedding``. ``rerank`` = False uses neither.
    - ``id_of``: the id by which ``invalidate(document=...)`` names a document; without it, its
      ``id``, else a hash of its content.
    - ``with_score(document, score)``: makes the documents of a re-ranked hit, with their cosines;
      without it they keep the scores that they had for the query they were retrieved for.
    - ``document_types``: classes of documents that are not found by name, as local ones.
    - ``exact_search``, ``cost_usd``, ``ttl_s``, ``masterplan``, ``tags``, ``min_similarity``,
      ``allow_similar``, ``min_certainty``: see ``retrieve_or_compute``. ``wait_s``: how long to
      wait for another caller that retrieves for the same query.
    - ``target``, ``timeouts``: see ``AsyncClient``.
    - ``enable_v2_caching`` = False, or $MGE_V2_RAG_CACHE_ENABLED = false at the time of the call:
      the source is asked, and nothing else happens.

    Any thread and any number of event loops may use it. Raises TypeError and InvalidRequestError
    for arguments with which no call could succeed. Close it to store what waits to be.
    """

    def retrieve(
        self,
        query: str,
        embedding: Any = None,
        k: int | None = None,
        *,
        filter: Mapping[str, object] | None = None,  # noqa: A002 - the contract's name
        masterplan: str | None = None,
        tags: Sequence[str] | None = None,
        min_similarity: float | None = None,
        allow_similar: bool | None = None,
    ) -> Documents[D]:
        """Return the ``k`` best documents: those of the cache, or the source's.

        Fewer, if there are no more. ``filter`` is part of what is looked up, and handed to the
        source as a keyword: TypeError if it takes none. What is None is as in the constructor.
        """
        options = self._options_of(
            k,
            filter=filter,
            masterplan=masterplan,
            tags=tags,
            min_similarity=min_similarity,
            allow_similar=allow_similar,
        )
        conditions = {} if filter is None else {"filter": filter}
        if embedding is None:
            embedding = self._embedder().call(query)
        asked = self._asked(options, query, embedding)
        if asked is None:
            return Documents(self._source.call(query, embedding, options.k, **conditions))

        def retrieve() -> tuple[RagDocument, ...]:
            found = self._source.call(query, embedding, asked.fetch_k, **conditions)
            return asked.documents(found)

        try:
            result = self._client.retrieve_or_compute(
                asked.query,
                retrieve,
                top_k=options.k,
                min_similarity=options.min_similarity,
                allow_similar=options.allow_similar,
                min_certainty=options.min_certainty,
                exact_search=options.exact_search,
                cost_usd=options.cost_usd,
                ttl_s=options.ttl_s,
                masterplan=options.masterplan,
                tags=options.tags,
                wait_s=options.wait_s,
            )
        except NotStoredError as error:
            return self._not_stored(asked, error)
        return self._returned(asked, result)

    async def aretrieve(
        self,
        query: str,
        embedding: Any = None,
        k: int | None = None,
        *,
        filter: Mapping[str, object] | None = None,  # noqa: A002 - the contract's name
        masterplan: str | None = None,
        tags: Sequence[str] | None = None,
        min_similarity: float | None = None,
        allow_similar: bool | None = None,
    ) -> Documents[D]:
        """As ``retrieve``, from an event loop."""
        options = self._options_of(
            k,
            filter=filter,
            masterplan=masterplan,
            tags=tags,
            min_similarity=min_similarity,
            allow_similar=allow_similar,
        )
        conditions = {} if filter is None else {"filter": filter}
        if embedding is None:
            embedding = await self._embedder().acall(query)
        asked = self._asked(options, query, embedding)
        if asked is None:
            return Documents(await self._source.acall(query, embedding, options.k, **conditions))

        async def retrieve() -> tuple[RagDocument, ...]:
            found = await self._source.acall(query, embedding, asked.fetch_k, **conditions)
            return asked.documents(found)

        try:
            result = await self._clients.here().retrieve_or_compute(
                asked.query,
                retrieve,
                top_k=options.k,
                min_similarity=options.min_similarity,
                allow_similar=options.allow_similar,
                min_certainty=options.min_certainty,
                exact_search=options.exact_search,
                cost_usd=options.cost_usd,
                ttl_s=options.ttl_s,
                masterplan=options.masterplan,
                tags=options.tags,
                wait_s=options.wait_s,
            )
        except NotStoredError as error:
            return self._not_stored(asked, error)
        return self._returned(asked, result)

    def flush(self) -> None:
        """Wait until what threads retrieved is stored."""
        self._client.flush()

    async def aflush(self) -> None:
        """Wait until what this event loop and what threads retrieved is stored."""
        await self._clients.here().flush()
        await asyncio.to_thread(self.flush)

    def close(self) -> None:
        """Store what threads retrieved, and close their connection. For event loops: ``aclose``."""
        self._client.close()
        self._source.close()
        if self._embed is not None:
            self._embed.close()

    async def aclose(self) -> None:
        """Store what this event loop and what threads retrieved, and close both connections."""
        client = self._clients.take()
        if client is not None:
            await client.close()
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        """Return the retriever itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close it."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return the retriever itself."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close it."""
        await self.aclose()
