"""A call on Anthropic that is made ready before it is known whether it is needed.

While the store is asked for an answer, there is nothing else to do: Anthropic's SDK meanwhile
builds the request, as far as its connection, where it waits for word to be sent. Belongs to the
event loop's thread.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from anthropic import AsyncStream

_WORD: ContextVar[asyncio.Future[None] | None] = ContextVar("word", default=None)


class Ahead:
    """One such call: ``call`` is made in a task of its own. It is sent once, or cancelled."""

    def __init__(
        self,
        key: str,
        body: Mapping[str, Any],
        messages: Sequence[Any],
        call: Coroutine[Any, Any, AsyncStream[object]],
    ) -> None:
        self._key = key
        self._body = body
        self._messages = messages
        self._word: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(_waiting(self._word, call))
        self._task.add_done_callback(_look_at)

    def asks(self, key: str | None, body: Mapping[str, Any], messages: Sequence[Any]) -> bool:
        """Whether it is the call with these members and this key, and can still be sent."""
        is_same = self._key == key and self._messages is messages and self._body == body
        return is_same and not self._word.done()

    async def send(self) -> AsyncStream[object]:
        """Let it be sent, and return its answer; raises what the SDK raises."""
        self._word.set_result(None)
        return await self._task

    def cancel(self) -> None:
        """Give it up if it was not sent; else whoever sent it looks after it."""
        if not self._word.done():
            self._task.cancel()


async def until_sent(_: object) -> None:
    """Hold a request up that was made ahead; called by the SDK's HTTP client before each."""
    word = _WORD.get()
    if word is not None:
        await word


async def _waiting(
    word: asyncio.Future[None], call: Coroutine[Any, Any, AsyncStream[object]]
) -> AsyncStream[object]:
    _WORD.set(word)
    return await call


def _look_at(task: asyncio.Task[AsyncStream[object]]) -> None:
    """See a failure that nobody may ask for."""
    if not task.cancelled():
        task.exception()
