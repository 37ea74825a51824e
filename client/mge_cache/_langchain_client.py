"""Clients that look a prompt up in one call and store its answer in another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mge_cache._aio_flights import AsyncFlights
from mge_cache._flights import Flights
from mge_cache._wire import PromptFlight
from mge_cache.aio import AsyncClient
from mge_cache.sync import Client

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mge_cache._health import Health
    from mge_cache._types import Answer, Lease, PromptKey, Timeouts
    from mge_cache._wire import Found


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is stored. ``model`` is known when the answer is; ``lease`` is the look-up's."""

    key: PromptKey
    answer: Answer
    lease: Lease | None
    compute_s: float
    ttl_s: float | None
    masterplan: str | None
    tags: Sequence[str]


def _looking(key: PromptKey) -> PromptFlight:
    return PromptFlight(key, ttl_s=None, masterplan=None, tags=(), send_prompt=False)


def _keeping(kept: Kept) -> PromptFlight:
    return PromptFlight(
        kept.key, ttl_s=kept.ttl_s, masterplan=kept.masterplan, tags=kept.tags, send_prompt=False
    )


class LookUpClient(Client):
    """A ``Client`` with the two halves of ``get_or_compute``; both fail open."""

    def __init__(self, target: str | None, *, timeouts: Timeouts, health: Health) -> None:
        super().__init__(target, timeouts=timeouts)
        self._health = health
        self._flights = Flights(
            health=health,
            timeouts=timeouts,
            fail_open=True,
            hold=self.hold,
            ask=self._connection.ask,
        )

    def find(self, key: PromptKey) -> Found:
        """Look an answer up. A miss has a lease, unless somebody else has it."""
        return self._flights.find(_looking(key), self._get, 0.0)

    def keep(self, kept: Kept) -> None:
        """Store an answer."""
        answer, lease, compute_s = kept.answer, kept.lease, kept.compute_s
        self._flights.keep(_keeping(kept), self._set, answer, lease=lease, compute_s=compute_s)


class AsyncLookUpClient(AsyncClient):
    """As ``LookUpClient``, for one event loop."""

    def __init__(self, target: str | None, *, timeouts: Timeouts, health: Health) -> None:
        super().__init__(target, timeouts=timeouts)
        self._health = health
        self._flights = AsyncFlights(
            health=health,
            timeouts=timeouts,
            fail_open=True,
            hold=self.hold,
            ask=self._connection.ask,
        )

    async def find(self, key: PromptKey) -> Found:
        """Look an answer up. A miss has a lease, unless somebody else has it."""
        return await self._flights.find(_looking(key), self._get, 0.0)

    async def keep(self, kept: Kept) -> None:
        """Store an answer."""
        flight, answer, lease = _keeping(kept), kept.answer, kept.lease
        await self._flights.keep(flight, self._set, answer, lease=lease, compute_s=kept.compute_s)
