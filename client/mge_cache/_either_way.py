"""What an application gives us to call: sync or async, a callable or an object with a method."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class EitherWay:
    """Calls what an application gave, from threads and from event loops.

    ``given`` is an object with one of the methods ``names``, or with one of the same names with an
    ``a`` in front for async callers; or a callable. Raises TypeError if it is none of these.

    An async caller never blocks its loop: what is sync runs in a thread. For a sync caller, what is
    async runs in one event loop of its own, in a thread that ends with ``close``.
    """

    def __init__(self, given: object, *, names: tuple[str, ...], what: str) -> None:
        self._sync, self._async = _found(given, names)
        self._loop = LoopThread()
        if self._sync is None and self._async is None:
            wanted = ", ".join(name for method in names for name in (method, f"a{method}"))
            raise TypeError(
                f"{what} must be callable or have one of the methods {wanted}; "
                f"a {type(given).__qualname__} has none"
            )

    def check(self, *arguments: object, what: str) -> None:
        """Raise TypeError, which names ``what``, unless it can be called with so many arguments."""
        for function in (self._sync, self._async):
            if function is not None and not _takes(function, arguments, ()):
                raise TypeError(what)

    def takes(self, name: str, *arguments: object) -> bool:
        """Whether it can be called with these arguments and a keyword, as far as is known."""
        functions = [each for each in (self._sync, self._async) if each is not None]
        return all(_takes(function, arguments, (name,)) for function in functions)

    def call(self, *arguments: object, **keywords: object) -> Any:
        """Call it, from a thread."""
        if self._sync is not None:
            result = self._sync(*arguments, **keywords)
        else:
            assert self._async is not None  # noqa: S101 - one of them is there
            result = self._async(*arguments, **keywords)
        return self._loop.wait_for(result) if inspect.isawaitable(result) else result

    async def acall(self, *arguments: object, **keywords: object) -> Any:
        """Call it, from an event loop."""
        if self._async is not None:
            return await self._async(*arguments, **keywords)
        assert self._sync is not None  # noqa: S101 - one of them is there
        result = await asyncio.to_thread(self._sync, *arguments, **keywords)
        return await result if inspect.isawaitable(result) else result

    def close(self) -> None:
        """End the thread, if there is one."""
        self._loop.close()


class LoopThread:
    """An event loop in a thread, started at the first use. Any other thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def wait_for(self, awaitable: Awaitable[object]) -> object:
        """Run it in the loop, with the caller's context, and wait for what it returns."""

        async def run() -> object:
            return await awaitable

        future = asyncio.run_coroutine_threadsafe(run(), self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()  # on Ctrl-C; else it is done
            raise

    def close(self) -> None:
        """End the loop and wait for its thread."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_run, args=(self._loop,), name="mge-cache-source", daemon=True
                )
                self._thread.start()
            return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()


def _found(
    given: object, names: tuple[str, ...]
) -> tuple[Callable[..., Any] | None, Callable[..., Any] | None]:
    """Return how it is called from a thread, and from an event loop; None if not in this way."""
    sync = _first(given, names)
    aio = _first(given, tuple(f"a{name}" for name in names))
    if sync is None and aio is None and callable(given):
        sync = given
    if sync is not None and _is_async(sync):
        return None, aio or sync
    return sync, aio


def _first(given: object, names: tuple[str, ...]) -> Callable[..., Any] | None:
    methods = (getattr(given, name, None) for name in names)
    return next((method for method in methods if callable(method)), None)


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - a look at the method, not a test for one
    )


def _takes(
    function: Callable[..., Any], arguments: tuple[object, ...], names: tuple[str, ...]
) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # it does not tell
        return not names
    try:
        signature.bind(*arguments, **dict.fromkeys(names))
    except TypeError:
        return False
    return True
