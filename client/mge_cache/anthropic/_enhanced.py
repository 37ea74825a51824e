"""One call for a prompt and its text, with the cache and the batcher switched on by a flag each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anthropic import AsyncAnthropic

from mge_cache._generate_types import AnswerSource
from mge_cache._switch import LLM_CACHE, switched_on
from mge_cache._types import PromptRequest
from mge_cache.anthropic._batched import Batched, Unanswered
from mge_cache.anthropic._directions import CACHE_HEADER, masterplan_header, no_store
from mge_cache.anthropic._middleware import PromptCacheMiddleware
from mge_cache.anthropic._record import usage_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from mge_cache._generate_types import Completion
    from mge_cache._types import Timeouts, Usage

MAX_TOKENS = 1024
"""Of an answer, unless the caller says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """An answer: all of its text, why it ends, and what it consumed when it was made.

    ``cached``: it was not paid for now. ``str()`` of it is the text.
    """

    text: str = field(repr=False)
    model: str
    stop_reason: str | None
    usage: Usage
    cached: bool

    def __str__(self) -> str:
        """Return the text."""
        return self.text


class EnhancedAnthropicClient:
    """Generates text with Claude, from one event loop.

    ``enable_v2_caching``: look in the cache before each call, and store its answer after it without
    making the caller wait. ``enable_v2_batching``: have the sidecar make the call, together with
    others, with a key of its own; where it cannot, ``client`` makes it as without. ``client``: the
    SDK's client to use, which stays the caller's to close; None: one that takes its key from the
    environment. ``target``, ``timeouts``, ``namespace`` and ``ttl_s`` are those of
    ``PromptCacheMiddleware``.
    """

    def __init__(
        self,
        *,
        enable_v2_caching: bool = True,
        enable_v2_batching: bool = False,
        client: AsyncAnthropic | None = None,
        target: str | None = None,
        timeouts: Timeouts | None = None,
        namespace: str = "default",
        ttl_s: float | None = None,
    ) -> None:
        self._namespace = namespace
        self._batched = None
        if enable_v2_batching:
            self._batched = Batched(
                target, timeouts=timeouts, ttl_s=ttl_s, caching=enable_v2_caching
            )
        self._cache = PromptCacheMiddleware(
            target=target, timeouts=timeouts, namespace=namespace, ttl_s=ttl_s
        )
        self._owned = AsyncAnthropic() if client is None else None
        self._client: AsyncAnthropic = client or self._owned  # type: ignore[assignment]
        self._caching = enable_v2_caching
        if enable_v2_caching:
            self._client = self._client.with_middleware(self._cache)

    @property
    def counts(self) -> Mapping[str, int]:
        """What the cache did; see ``PromptCacheMiddleware.counts``."""
        return self._cache.counts

    @property
    def failures(self) -> int:
        """How many look-ups and stores failed, so that calls were made without them."""
        return self._cache.failures + (self._batched.failures if self._batched else 0)

    async def generate_with_caching(
        self,
        prompt: str,
        *,
        model: str,
        temperature: float | None = None,
        masterplan_id: str | None = None,
        max_tokens: int = MAX_TOKENS,
        system: str | None = None,
    ) -> Generation:
        """Return the answer to a prompt, from the cache if it has it.

        ``temperature`` None leaves it to the API. The answer can be invalidated by
        ``masterplan_id``. Raises the SDK's own errors.
        """
        is_away = False
        if self._batched is not None and switched_on(LLM_CACHE):
            parameters: dict[str, object] = {"max_tokens": max_tokens}
            if system is not None:
                parameters["system"] = system
            request = PromptRequest(
                model=model,
                prompt=prompt,
                temperature=temperature,
                parameters=parameters,
                namespace=self._namespace,
            )
            completion = await self._batched.generate(request, masterplan=masterplan_id)
            if not isinstance(completion, Unanswered):
                return _generation(completion, model)
            is_away = completion is Unanswered.AWAY
        return await self._ask(
            prompt,
            model=model,
            temperature=temperature,
            masterplan_id=masterplan_id,
            max_tokens=max_tokens,
            system=system,
            with_cache=self._caching and not is_away,
        )

    async def _ask(
        self,
        prompt: str,
        *,
        model: str,
        temperature: float | None,
        masterplan_id: str | None,
        max_tokens: int,
        system: str | None,
        with_cache: bool,
    ) -> Generation:
        arguments: dict[str, Any] = {
            "model": model,
            "max_tokens": max_tokens,
            "messages": [{"role": "user", "content": prompt}],
        }
        if system is not None:
            arguments["system"] = system
        if temperature is not None:  # which the SDK's methods do not name any more
            arguments["extra_body"] = {"temperature": temperature}
        if self._caching and not with_cache:
            arguments["extra_headers"] = no_store()
        elif masterplan_id is not None and with_cache:
            arguments["extra_headers"] = masterplan_header(masterplan_id)
        response = await self._client.messages.with_raw_response.create(**arguments)
        message = await response.parse()
        return Generation(
            text="".join(block.text for block in message.content if block.type == "text"),
            model=message.model,
            stop_reason=message.stop_reason,
            usage=usage_of({"usage": message.usage.to_dict()}),
            cached=response.headers.get(CACHE_HEADER, "").startswith("hit"),
        )

    async def close(self) -> None:
        """Wait until the answers are stored, and disconnect."""
        await self._cache.aclose()
        if self._batched is not None:
            await self._batched.close()
        if self._owned is not None:
            await self._owned.close()

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close it."""
        await self.close()


def _generation(completion: Completion, model: str) -> Generation:
    return Generation(
        text=completion.text,
        model=model,
        stop_reason=completion.stop_reason,
        usage=completion.usage,
        cached=completion.source is not AnswerSource.UPSTREAM,
    )
