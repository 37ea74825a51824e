"""Watches a connection while calls wait on it; gives them up when the sidecar hangs: asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mge_cache._silence import Sign

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from mge_cache._silence import Silence


class AsyncWait:
    """``with watch.over(give_up)``: a call waits in the block; ``given_up`` if it has to stop."""

    __slots__ = ("_watch", "give_up", "given_up")

    def __init__(self, watch: AsyncWatch, give_up: Callable[[], object]) -> None:
        self._watch = watch
        self.give_up = give_up
        self.given_up = False

    def __enter__(self) -> Self:
        self._watch.begin(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._watch.end(self)


class AsyncWatch:
    """Looks at a silence for as long as calls wait. For one event loop.

    ``ask`` asks the sidecar whether it is there, without waiting for the answer.
    """

    def __init__(self, silence: Silence, *, ask: Callable[[], None]) -> None:
        self._silence = silence
        self._ask = ask
        self._waits: set[AsyncWait] = set()
        self._timer: asyncio.TimerHandle | None = None

    def over(self, give_up: Callable[[], object]) -> AsyncWait:
        """Watch while a block runs; ``give_up`` is called once if the sidecar hangs."""
        return AsyncWait(self, give_up)

    def begin(self, wait: AsyncWait) -> None:
        """Watch from now on. The timer is left alone at the end of calls: most last shorter."""
        self._waits.add(wait)
        self._silence.begins()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._silence.look_s, self._look)

    def end(self, wait: AsyncWait) -> None:
        """Watch no more."""
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
        elif sign is Sign.HANGS:
            for wait in [wait for wait in self._waits if not wait.given_up]:
                wait.given_up = True
                wait.give_up()
        self._timer = asyncio.get_running_loop().call_later(self._silence.look_s, self._look)
