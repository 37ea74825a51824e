"""Watches a connection while calls wait on it; gives them up when the sidecar hangs: asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from mge_cache._silence import Sign, Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mge_cache._silence import Silence


class AsyncWatch:
    """Looks at a silence for as long as calls wait. For one event loop.

    ``ask`` asks the sidecar whether it is there, without waiting for the answer.
    """

    def __init__(self, silence: Silence, *, ask: Callable[[], None]) -> None:
        self._silence = silence
        self._ask = ask
        self._waits: set[Wait] = set()
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def over(self, give_up: Callable[[], object], *, bounded: bool = False) -> Iterator[Wait]:
        """Watch while a block runs; see ``Wait``. The loop's timer outlasts most blocks."""
        wait = Wait(give_up, bounded=bounded)
        self._silence.begins()
        wait.begin(self._silence.looks)
        self._waits.add(wait)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._silence.look_s, self._look)
        try:
            yield wait
        finally:
            self._waits.discard(wait)
            self._silence.ends()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if not self._waits:
            return
        sign = self._silence.look()
        if sign is Sign.ASK:
            self._ask()
        looks, looks_max = self._silence.looks, self._silence.looks_max
        for wait in tuple(self._waits):
            wait.consider(hangs=sign is Sign.HANGS, looks=looks, looks_max=looks_max)
        self._timer = asyncio.get_running_loop().call_later(self._silence.look_s, self._look)
