"""A miss whose answer comes later than the call that found it missing, such as a stream's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mge_cache._types import Miss

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from mge_cache._aio_flights import AsyncFlights
    from mge_cache._flights import Flights
    from mge_cache._types import Answer
    from mge_cache._wire import PromptFlight
    from mge_cache.v1 import cache_service_pb2 as pb


class AsyncLead:
    """The answer is to be computed by whoever has this; see ``AsyncClient.get_or_lead``."""

    def __init__(
        self,
        flights: AsyncFlights,
        flight: PromptFlight,
        *,
        store: Callable[[pb.SetPromptRequest], Awaitable[object]],
    ) -> None:
        self._flights = flights
        self._store = store
        self.flight = flight
        self.miss = Miss()

    def hold(self) -> AbstractAsyncContextManager[None]:
        """Make other callers wait while an ``async with`` block runs.

        Leaving it without having stored the answer lets the next of them compute it at once.
        """
        return self._flights.hold(self.miss)

    async def keep(self, answer: Answer, *, compute_s: float) -> None:
        """Store the answer, and give it to those who wait. At most once.

        With ``fail_open`` (see AsyncClient), what fails is counted and raises nothing.
        """
        await self._flights.keep(
            self.flight, self._store, answer, lease=self.miss.lease, compute_s=compute_s
        )


class Lead:
    """The answer is to be computed by whoever has this; see ``Client.get_or_lead``.

    Any thread may use it, one at a time.
    """

    def __init__(
        self,
        flights: Flights,
        flight: PromptFlight,
        *,
        store: Callable[[pb.SetPromptRequest], object],
    ) -> None:
        self._flights = flights
        self._store = store
        self.flight = flight
        self.miss = Miss()

    def hold(self) -> AbstractContextManager[None]:
        """Make other callers wait while a ``with`` block runs.

        Leaving it without having stored the answer lets the next of them compute it at once.
        """
        return self._flights.hold(self.miss)

    def keep(self, answer: Answer, *, compute_s: float) -> None:
        """Store the answer, and give it to those who wait. At most once.

        With ``fail_open`` (see Client), what fails is counted and raises nothing.
        """
        self._flights.keep(
            self.flight, self._store, answer, lease=self.miss.lease, compute_s=compute_s
        )
