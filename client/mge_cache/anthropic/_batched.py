"""Answers through the sidecar's batcher; where it cannot, the caller asks by itself."""

from __future__ import annotations

import asyncio
import enum
import time
from typing import TYPE_CHECKING

from mge_cache import _wire
from mge_cache._channel import resolve_target
from mge_cache._generate_types import CacheUse
from mge_cache._health import Health
from mge_cache._types import Timeouts
from mge_cache.aio import AsyncClient
from mge_cache.errors import DeadlineExceededError, MgeCacheError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache._aio_generation import AsyncGeneration
    from mge_cache._generate_types import Completion
    from mge_cache._types import PromptRequest

_LOOK_S = 2.0
"""How often a sidecar that is at work is asked whether it is still there."""
_ANSWER_S = 600.0


class Unanswered(enum.Enum):
    """Why there is no answer by the sidecar."""

    AWAY = enum.auto()
    """It is down, hangs, or cannot reach Anthropic: who asks by himself need not ask it again."""
    REFUSED = enum.auto()


class _Client(AsyncClient):
    """One that can be asked whether the sidecar answers look-ups, in a fail-open manner."""

    def __init__(self, target: str | None, *, timeouts: Timeouts, health: Health) -> None:
        super().__init__(target, timeouts=timeouts)
        self._health = health

    def check(self) -> None:
        """Raise UnavailableError if the sidecar could not be reached a moment ago."""
        self._health.check(self._connection.ask)

    async def look(self, request: PromptRequest, *, patient: bool) -> None:
        """Find out, within the deadline of a look-up, whether the sidecar answers.

        ``patient``: silence is no reason to give up sooner.
        """
        message = _wire.get_request(
            request, wait_s=0.0, lease_ttl_s=0.0, peek=True, send_prompt=False
        )
        await self._get(message, 0.0, patient=patient)


class Batched:
    """For one event loop. ``caching`` False: answers are neither looked up nor stored."""

    def __init__(
        self,
        target: str | None,
        *,
        timeouts: Timeouts | None,
        ttl_s: float | None,
        caching: bool,
        look_s: float = _LOOK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        timeouts = timeouts or Timeouts()
        self._health = Health(resolve_target(target), retry_s=timeouts.retry_s, clock=clock)
        self._client = _Client(target, timeouts=timeouts, health=self._health)
        self._look_s = look_s
        self._ttl_s = ttl_s
        self._cache = CacheUse.USE if caching else CacheUse.BYPASS

    @property
    def failures(self) -> int:
        """How many answers the sidecar could not give."""
        return self._health.failures

    async def generate(
        self, request: PromptRequest, *, masterplan: str | None
    ) -> Completion | Unanswered:
        """Return the answer, or why there is none: the sidecar is away, has no key, or fails.

        Whatever Anthropic said then, it will say again to the caller, in the SDK's own errors.
        """
        try:
            self._client.check()
            await self._client.look(request, patient=False)
            generation = self._client.generate(
                request,
                masterplan=masterplan,
                ttl_s=self._ttl_s,
                cache=self._cache,
                timeout_s=_ANSWER_S,
            )
            completion = await self._watched(generation, request)
        except MgeCacheError as exc:
            self._health.went_without("generate", exc)
            is_away = isinstance(exc, (DeadlineExceededError, UnavailableError))
            return Unanswered.AWAY if is_away else Unanswered.REFUSED
        self._health.succeeded("generate")
        return completion

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()

    async def _watched(self, generation: AsyncGeneration, request: PromptRequest) -> Completion:
        """Wait for an answer for as long as the sidecar is there."""
        async with generation:
            result = asyncio.ensure_future(generation.result())
            try:
                while not (await asyncio.wait([result], timeout=self._look_s))[0]:
                    try:
                        await self._client.look(request, patient=True)
                    except DeadlineExceededError:
                        # One alone can be a pause of this very process. Three in a row open the
                        # breaker, and then this raises.
                        self._client.check()
                return result.result()
            finally:
                result.cancel()
