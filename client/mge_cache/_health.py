"""What a client knows about its sidecar, and what it says about it: to its breaker, to the log."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from mge_cache._breaker import Breaker
from mge_cache.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    SidecarError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mge_cache.errors import MgeCacheError

LOGGER = logging.getLogger("mge_cache")


class Health:
    """Counts what a fail-open client had to do without, and logs each change once.

    Any thread may call it.
    """

    def __init__(
        self, target: str, *, retry_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._target = target
        self._breaker = Breaker(retry_s=retry_s, clock=clock)
        self._lock = threading.Lock()
        self._failing: set[str] = set()
        self._failures = 0

    @property
    def failures(self) -> int:
        """Look-ups and stores of ``get_or_compute`` and the like that failed or were not tried."""
        return self._failures

    def check(self, ask: Callable[[], None]) -> None:
        """Raise UnavailableError if the sidecar could not be reached a moment ago.

        ``ask`` is called where it is time to ask whether it is back; it must not wait for that.
        """
        if self._breaker.allows():
            return
        if self._breaker.asks():
            ask()
        raise UnavailableError("not tried, as the sidecar could not be reached a moment ago")

    def answered(self) -> None:
        """Note that the sidecar says that it is there."""
        if self._breaker.answered():
            LOGGER.info("the cache at %s is back", self._target)

    @contextlib.contextmanager
    def watching(self, *, generous: bool = False) -> Iterator[None]:
        """Note how the look-up or store in the block goes.

        ``generous``: its deadline is long enough for missing it to prove that the sidecar hangs.
        Not for Invalidate: there UNAVAILABLE can mean the sidecar's store.
        """
        try:
            yield
        except (SidecarError, InvalidRequestError) as exc:
            self._failed(exc, generous=generous)
            raise
        self._succeeded()

    def went_without(self, operation: str, error: MgeCacheError) -> None:
        """Count an error that its caller does not see."""
        with self._lock:
            self._failures += 1
            new = operation not in self._failing
            self._failing.add(operation)
        # An outage is logged as such, by `_failed`.
        outage = isinstance(error, (UnavailableError, DeadlineExceededError))
        level = logging.WARNING if new and not outage else logging.DEBUG
        LOGGER.log(level, "went without %s: %s", operation, error)

    def succeeded(self, operation: str) -> None:
        """Note that an operation works, so that its next failure is news again."""
        if operation in self._failing:
            with self._lock:
                self._failing.discard(operation)

    def _succeeded(self) -> None:
        if self._breaker.succeeded():
            LOGGER.info("the cache at %s is back", self._target)

    def _failed(self, error: MgeCacheError, *, generous: bool) -> None:
        if not isinstance(error, (UnavailableError, DeadlineExceededError)):
            self._succeeded()  # with an error, but it is there
            return
        slow = isinstance(error, DeadlineExceededError)
        if self._breaker.failed(slow=slow, generous=generous):
            LOGGER.warning(
                "the cache at %s cannot be reached, results are computed until it is back: %s",
                self._target,
                error,
            )
