"""The prompt cache as LangChain's ``BaseCache``."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache

from mge_cache._channel import resolve_target
from mge_cache._clients_by_loop import ClientsByLoop
from mge_cache._health import Health
from mge_cache._json import canonical_json
from mge_cache._key import DEFAULT_NAMESPACE, prompt_key
from mge_cache._langchain_answers import MODEL, answer_of, generations_of, is_complete, model_of
from mge_cache._langchain_client import AsyncLookUpClient, Kept, LookUpClient
from mge_cache._shape_errors import UnfaithfulError, UnreadableError
from mge_cache._switch import LLM_CACHE, switched_on
from mge_cache._types import Hit, PromptKey, Timeouts
from mge_cache.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from mge_cache._types import Lease
    from mge_cache._wire import Found

LEASE_S = 60.0
LEASES_MAX = 1024


class MgeCache(BaseCache):
    """Remembers what models answered: ``set_llm_cache(MgeCache())``.

    The key covers the prompt and all that LangChain says of the model and its parameters. Answers
    that are cut or refused are not stored, nor what would not come back as it is; ``uncached``
    counts them. The cost that a hit saves is computed from the answer's usage and model.

    - ``namespace``, ``ttl_s``, ``masterplan``, ``tags``: as in ``get_or_compute``.
    - ``tag``: an additional tag that all answers get; ``clear`` ends those that have it, and no
      others.
    - ``target``, ``timeouts``: see ``AsyncClient``.
    - ``enable_v2_caching`` = False, or $MGE_V2_LLM_CACHE_ENABLED = false at the time of the call:
      nothing is found, stored or cleared.

    LangChain looks up and stores in two calls, and does not say when a model failed: so callers
    with the same prompt do not wait for each other (``get_or_compute`` has single flight). Any
    thread and any number of event loops may use it. If the sidecar is down, the model is asked;
    only ``clear`` raises then (UnavailableError), as it must not pretend.
    """

    def __init__(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        ttl_s: float | None = None,
        masterplan: str | None = None,
        tags: Sequence[str] = (),
        tag: str = "langchain",
        enable_v2_caching: bool = True,
        target: str | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        timeouts = timeouts or Timeouts(lease_ttl_s=LEASE_S)
        if isinstance(tags, str):
            raise InvalidRequestError("tags", "must be a sequence of texts, not one text")
        self._namespace = namespace
        self._ttl_s = ttl_s
        self._masterplan = masterplan
        self._tag = tag
        self._tags = (*tags, tag)
        self._enabled = enable_v2_caching
        self._lock = threading.Lock()
        self._uncached: Counter[str] = Counter()
        self._leases: OrderedDict[bytes, tuple[Lease | None, float]] = OrderedDict()
        self._health = health = Health(resolve_target(target), retry_s=timeouts.retry_s)
        self._client = LookUpClient(target, timeouts=timeouts, health=health)
        self._clients = ClientsByLoop(
            lambda: AsyncLookUpClient(target, timeouts=timeouts, health=health)
        )

    @property
    def enabled(self) -> bool:
        """Whether the cache is asked: it is switched on here and in the environment."""
        return self._enabled and switched_on(LLM_CACHE)

    @property
    def failures(self) -> int:
        """How many look-ups and stores the sidecar did not do."""
        return self._health.failures

    @property
    def uncached(self) -> Mapping[str, int]:
        """How many answers were not cached, by reason.

        ``incomplete``, ``answer`` (it would not come back as it is), ``prompt`` (it has no UTF-8
        form), ``unreadable`` (it was stored by another version of its classes).
        """
        with self._lock:
            return dict(self._uncached)

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Return the generations that were stored, or None."""
        key = self._key(prompt, llm_string)
        return None if key is None else self._read(key, self._client.find(key))

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """As ``lookup``, from an event loop."""
        key = self._key(prompt, llm_string)
        return None if key is None else self._read(key, await self._clients.here().find(key))

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Store generations."""
        kept = self._kept(prompt, llm_string, return_val)
        if kept is not None:
            self._client.keep(kept)

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """As ``update``, from an event loop."""
        kept = self._kept(prompt, llm_string, return_val)
        if kept is not None:
            await self._clients.here().keep(kept)

    def clear(self, **kwargs: Any) -> None:
        """End all answers of the namespace that have this cache's ``tag``; no options."""
        _no_options(kwargs)
        if self.enabled:
            self._client.invalidate(namespace=self._namespace, tag=self._tag)

    async def aclear(self, **kwargs: Any) -> None:
        """As ``clear``, from an event loop."""
        _no_options(kwargs)
        if self.enabled:
            await self._clients.here().invalidate(namespace=self._namespace, tag=self._tag)

    def close(self) -> None:
        """Close the connection of threads. For event loops: ``aclose``."""
        self._client.close()

    async def aclose(self) -> None:
        """Close the connections of this event loop and of threads."""
        client = self._clients.take()
        if client is not None:
            await client.close()
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        """Return the cache itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close it."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return the cache itself."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close it."""
        await self.aclose()

    def _key(self, prompt: str, llm_string: str) -> PromptKey | None:
        """Return the key; None if there is nothing to look up or to store."""
        if not self.enabled:
            return None
        try:
            key = prompt_key(
                namespace=self._namespace,
                model=MODEL,
                temperature=None,
                prompt=prompt,
                parameters={"llm_string": canonical_json(llm_string)},
            )
        except InvalidRequestError:
            self._count("prompt")
            return None
        return PromptKey(key=key, model=MODEL, namespace=self._namespace)

    def _read(self, key: PromptKey, found: Found) -> RETURN_VAL_TYPE | None:
        if isinstance(found, Hit):
            try:
                return generations_of(found.answer)
            except UnreadableError:
                self._count("unreadable")
                return None
        with self._lock:
            # Of two callers, the one without the lease must not take the other's from here.
            if found.lease is not None or key.key not in self._leases:
                self._leases[key.key] = found.lease, time.monotonic()
            while len(self._leases) > LEASES_MAX:
                self._leases.popitem(last=False)
        return None

    def _kept(self, prompt: str, llm_string: str, generations: RETURN_VAL_TYPE) -> Kept | None:
        key = self._key(prompt, llm_string)
        if key is None:
            return None
        with self._lock:
            lease, looked_up_at = self._leases.pop(key.key, (None, None))
        try:
            answer = answer_of(generations)
        except UnfaithfulError:
            self._count("answer")
            return None
        if not is_complete(generations):
            self._count("incomplete")
            return None
        return Kept(
            key=replace(key, model=model_of(generations)),
            answer=answer,
            lease=lease,
            compute_s=0.0 if looked_up_at is None else time.monotonic() - looked_up_at,
            ttl_s=self._ttl_s,
            masterplan=self._masterplan,
            tags=self._tags,
        )

    def _count(self, reason: str) -> None:
        with self._lock:
            self._uncached[reason] += 1


def _no_options(options: dict[str, Any]) -> None:
    if options:
        raise TypeError("clear takes no options: it ends all answers that have the cache's tag")
