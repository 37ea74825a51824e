"""Waiting for what another task or process does, without guessing how long that takes."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]], *, within_s: float = ..., every_s: float = ...
) -> T: ...
@overload
async def eventually(
    condition: Callable[[], T], *, within_s: float = ..., every_s: float = ...
) -> T: ...
async def eventually(
    condition: Callable[[], object], *, within_s: float = 5.0, every_s: float = 0.01
) -> object:
    """Asks ``condition`` until its answer (or what that awaits to) is true, and returns the answer.

    A condition may assert as well: an AssertionError means "not yet" until ``within_s`` seconds are
    over, and then is what the caller gets. Any other error passes at once. ``condition`` is asked
    once at least.
    """
    deadline_s = time.monotonic() + within_s
    while True:
        failure: AssertionError | None = None
        answer: object = None
        try:
            answer = condition()
            if inspect.isawaitable(answer):
                answer = await answer
        except AssertionError as error:
            failure = error
        if failure is None and answer:
            return answer
        if time.monotonic() >= deadline_s:
            raise failure or AssertionError(f"still {answer!r} after {within_s} s")
        await asyncio.sleep(every_s)
