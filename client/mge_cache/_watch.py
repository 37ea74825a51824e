"""Watches a connection while calls wait on it; gives them up when the sidecar hangs: threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from mge_cache._silence import Sign

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache._silence import Silence, Wait

_OTHERS_LOOKS = 5
"""How many looks long the threads sleep that leave looking to another one."""


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

    def until(self, done: Callable[[float], bool], wait: Wait) -> None:
        """Call ``done`` (with seconds that it may take) until it is true, or ``wait`` given up."""
        self._silence.begins()
        wait.begin(self._silence.looks)
        with self._lock:
            self._waits.add(wait)
        look_s = self._silence.look_s
        looks = self._eyes.acquire(blocking=False)
        try:
            while not done(look_s if looks else _OTHERS_LOOKS * look_s):
                if wait.given_up is not None:
                    return
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

    def _look(self) -> None:
        sign = self._silence.look()
        if sign is Sign.ASK:
            self._ask()
        looks, looks_max = self._silence.looks, self._silence.looks_max
        with self._lock:
            waits = tuple(self._waits)
        for wait in waits:
            wait.consider(hangs=sign is Sign.HANGS, looks=looks, looks_max=looks_max)
