"""One caller who fetches the answer of a deferred request: read as the reader of a slot is."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mge_cache_server.errors import DefectError, MgeError
from mge_cache_server.slots import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from mge_cache_server.generation import Completion

_log = logging.getLogger(__name__)


class Fetching:
    """Runs ``fetch``; ``wake()`` says that the outcome is there."""

    def __init__(
        self, fetch: Coroutine[object, object, Completion], wake: Callable[[], None]
    ) -> None:
        self._outcome: Completion | MgeError | None = None
        self._wake = wake
        self._left = False
        self._task = asyncio.get_running_loop().create_task(fetch)
        self._task.add_done_callback(self._ended)

    def take(self) -> Progress:
        """Return the outcome, if it is there."""
        return Progress(restarted=False, text="", outcome=self._outcome)

    def leave(self) -> None:
        """Stop waiting."""
        self._left = True
        self._task.cancel()

    def _ended(self, task: asyncio.Task[Completion]) -> None:
        if task.cancelled() or self._left:
            return
        failure = task.exception()
        if failure is None:
            self._outcome = task.result()
        elif isinstance(failure, MgeError):
            self._outcome = failure
        else:
            _log.error("internal error", extra={"method": "Generate"}, exc_info=failure)
            self._outcome = DefectError("internal error; see the sidecar's log")
        self._wake()
