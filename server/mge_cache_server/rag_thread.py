"""The thread for searches that would hold up the event loop, and the import of what they need.

Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_INLINE_NUMBERS = 1_000_000
_SWITCH_S = 0.0005
_T = TypeVar("_T")


class SearchThread:
    """One thread for all searches of a sidecar; it also loads the libraries that they need."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "mge-search")
        self._loading: asyncio.Task[None] | None = None

    def is_ready(self) -> bool:
        """Whether the libraries are there; if not, they are loaded from now on."""
        return self._load().done()

    async def ready(self) -> None:
        """Load the libraries at the first use: a tenth of a second, not on the event loop."""
        loading = self._load()
        if not loading.done():
            await asyncio.shield(loading)
        loading.result()

    async def compute(self, numbers: int, call: Callable[[], _T]) -> _T:
        """Call something that looks at so many numbers, in the thread if they are many."""
        if numbers <= _INLINE_NUMBERS:
            return call()
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def close(self) -> None:
        """End what is under way."""
        if self._loading is not None:
            await asyncio.wait([self._loading])
        self._executor.shutdown(cancel_futures=True)

    def _load(self) -> asyncio.Task[None]:
        if self._loading is None:
            self._loading = asyncio.get_running_loop().create_task(_in_background())
        return self._loading


async def _in_background() -> None:
    with ThreadPoolExecutor(1, "mge-import") as thread:
        await asyncio.get_running_loop().run_in_executor(thread, _load_libraries)


def _load_libraries() -> None:
    # The event loop's thread waits so long for a thread that runs Python code, as it does for the
    # import; by default it is ten times as much, and most of other calls' p99.
    sys.setswitchinterval(_SWITCH_S)
    # One query has one thread: more would take the cores from the application in the pod.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import_module("mge_cache_server.rag_vectors")
    gc.freeze()  # as after the start: numpy stays, and going through it would take milliseconds
