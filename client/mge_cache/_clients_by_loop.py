"""One client for each event loop that asks, as each belongs to one loop."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable


class _Closes(Protocol):
    async def close(self) -> None: ...


C = TypeVar("C", bound=_Closes)


class ClientsByLoop(Generic[C]):
    """Makes a loop's client at its first use; those of loops that are closed are forgotten.

    Any loop may use it.
    """

    def __init__(self, make: Callable[[], C]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._clients: dict[asyncio.AbstractEventLoop, C] = {}

    def here(self) -> C:
        """Return the running loop's client."""
        loop = asyncio.get_running_loop()
        with self._lock:
            client = self._clients.get(loop)
            if client is None:
                open_ones = {
                    each: its for each, its in self._clients.items() if not each.is_closed()
                }
                self._clients = open_ones
                client = self._clients[loop] = self._make()
            return client

    def take(self) -> C | None:
        """Return the running loop's client, if it has one, and forget it."""
        with self._lock:
            return self._clients.pop(asyncio.get_running_loop(), None)
