"""Watches a connection while calls wait on it; gives them up when the sidecar hangs: threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from mge_cache._silence import Sign

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache._silence import Silence

_OTHERS_LOOKS = 5
"""How many looks long the threads sleep that leave looking to another one."""


class Wait:
    """One call that waits; ``given_up`` if it has to stop."""

    __slots__ = ("give_up", "given_up")

    def __init__(self, give_up: Callable[[], object]) -> None:
        self.give_up = give_up
        self.given_up = False


class Watch:
    """Has one of the threads that wait look at a silence. Any thread may use it.

    That there is but one matters: gRPC's own thread, which reads what arrives, has to get the GIL
    as often as the one that looks. ``ask`` asks the sidecar whether it is there, without waiting
    for the answer.
    """

    def __init__(self, silence: Silence, *, ask: Callable[[], None]) -> None:
        self._silence = silence
        self._ask = ask
        self._lock = threading.Lock()
        self._waits: set[Wait] = set()
        self._eyes = threading.Lock()

    def until(self, done: Callable[[float], bool], give_up: Callable[[], object]) -> bool:
        """Call ``done`` (with seconds that it may take) until it is true; False: given up.

        ``give_up`` is called once if the sidecar hangs, by whichever thread looks.
        """
        wait = Wait(give_up)
        with self._lock:
            self._waits.add(wait)
        self._silence.begins()
        look_s = self._silence.look_s
        looks = self._eyes.acquire(blocking=False)
        try:
            while not done(look_s if looks else _OTHERS_LOOKS * look_s):
                if wait.given_up:
                    return False
                if looks:
                    self._look()
                else:
                    looks = self._eyes.acquire(blocking=False)
        finally:
            if looks:
                self._eyes.release()
            self._silence.ends()
            with self._lock:
                self._waits.discard(wait)
        return not wait.given_up

    def _look(self) -> None:
        sign = self._silence.look()
        if sign is Sign.ASK:
            self._ask()
        elif sign is Sign.HANGS:
            with self._lock:
                hanging = [wait for wait in self._waits if not wait.given_up]
            for wait in hanging:
                wait.given_up = True
                wait.give_up()
