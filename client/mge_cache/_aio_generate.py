"""The calls of the asyncio client that go through the sidecar's batcher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mge_cache import _wire_generate
from mge_cache._aio_base import AsyncClientBase
from mge_cache._aio_many import Many
from mge_cache._generate_types import CacheUse
from mge_cache._key import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence

    from mge_cache._aio_generation import AsyncGeneration
    from mge_cache._generate_types import Completion, Generated, Strategy
    from mge_cache._types import PromptRequest


class AsyncGenerateCalls(AsyncClientBase):
    """Lets the sidecar answer prompts: from the cache, or by asking Anthropic."""

    def generate(
        self,
        request: PromptRequest,
        *,
        masterplan: str | None = None,
        tags: Sequence[str] = (),
        ttl_s: float | None = None,
        cache: CacheUse = CacheUse.USE,
        strategy: Strategy | None = None,
        timeout_s: float = 600.0,
        request_id: str | None = None,
    ) -> AsyncGeneration:
        """Ask for the answer to a prompt, now; what is returned is read as the answer comes.

        The whole request goes to the sidecar, which answers from the cache or asks Anthropic, and
        stores the answer for ``ttl_s`` (None: its default), to be invalidated by ``masterplan`` and
        ``tags``. ``strategy``: None is the sidecar's. ``timeout_s``, at most 24 hours, is for the
        whole answer; DeadlineExceededError then, also if the sidecar hangs (``Timeouts``). A
        deferred one stays in its batch and is fetched by ``request_id`` (None: a random one), which
        is then unlike every other in the namespace.

        There is no source to fall back on, whatever ``fail_open`` is: where the sidecar is away, or
        goes away meanwhile, this fails with UnavailableError. It is not repeated by itself, as it
        may have been paid for. At most 1000 requests at once: ResourceExhaustedError beyond.
        """
        message = _wire_generate.start_request(
            request,
            masterplan=masterplan,
            tags=tags,
            ttl_s=ttl_s,
            cache=cache,
            strategy=strategy,
            timeout_s=timeout_s,
            request_id=request_id,
        )
        return self._streams.start(message, within_s=timeout_s + self._timeouts.generate_margin_s)

    def generate_many(
        self,
        requests: Iterable[PromptRequest] | AsyncIterable[PromptRequest],
        *,
        masterplan: str | None = None,
        tags: Sequence[str] = (),
        ttl_s: float | None = None,
        cache: CacheUse = CacheUse.USE,
        strategy: Strategy | None = None,
        timeout_s: float = 600.0,
        max_in_flight: int = 64,
    ) -> AsyncGenerator[Generated, None]:
        """Ask for many answers; yield each when it is complete, in the order of their ends.

        A request that fails is yielded with its error, and the others go on. ``requests`` is read
        as room comes: ``max_in_flight`` are under way, or done and not yet taken. What reading it
        raises is raised here, after the answers that were under way. Leaving the iteration gives up
        what is under way; do so with ``contextlib.aclosing``, or at the garbage collector's time.
        The other arguments are for each of them: see ``generate``.
        """

        def generate(request: PromptRequest) -> AsyncGeneration:
            return self.generate(
                request,
                masterplan=masterplan,
                tags=tags,
                ttl_s=ttl_s,
                cache=cache,
                strategy=strategy,
                timeout_s=timeout_s,
            )

        return Many(generate, max_in_flight=max_in_flight).run(requests)

    async def fetch(
        self,
        request_id: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        timeout_s: float = 0.0,
    ) -> Completion:
        """Return the answer of a deferred request, whichever client sent it.

        Raises NotReadyError if it is not there after ``timeout_s`` (at most 24 hours),
        NotFoundError if the sidecar knows no such request, or its answer has left the cache, and
        whatever error the request itself ended with.
        """
        message = _wire_generate.fetch_request(request_id, namespace=namespace, timeout_s=timeout_s)
        within_s = timeout_s + self._timeouts.generate_margin_s
        return await self._streams.start(message, within_s=within_s).result()
