"""Tickets: what is known of each deferred request, by its id, for whoever fetches its answer.

The answer itself is in the cache. A ticket says where, and what has become of the request if it is
not there. Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mge_cache_server import answers
from mge_cache_server.codec import RecordError
from mge_cache_server.deferred_codec import (
    Ticket,
    TicketState,
    decode_ticket,
    encode_ticket,
    ticket_key,
)
from mge_cache_server.errors import (
    AnswerTimeoutError,
    StoreError,
    StoreUnavailableError,
    UnknownRequestError,
    UpstreamUnavailableError,
)
from mge_cache_server.generation import DEFERRED_MAX_S, CacheUse
from mge_cache_server.model import EntryKey, Hit

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from mge_cache_server.generation import Completion
    from mge_cache_server.prompt_cache import PromptCache
    from mge_cache_server.slots import Slot
    from mge_cache_server.store_deferred import DeferredStore

STOPPING: Final = "the sidecar is stopping; the batch goes on: fetch the answer later, or ask again"
DAY_S: Final = 86_400.0

_AT_ONCE = 32
_LOCAL_MAX = 100_000
"""Tickets that no store keeps. Past that, the oldest go: nothing is known of them any more."""
_LOOK_S = 5.0


class Tickets:
    """Writes and reads tickets. ``failed(namespace, operation)`` is told of the store's failures.

    A ticket that the store does not take is known in this process only.
    """

    def __init__(
        self,
        store: DeferredStore,
        prompts: PromptCache,
        *,
        poll_s: float,
        failed: Callable[[str, str], None],
    ) -> None:
        self._store = store
        self._prompts = prompts
        self._pause_s = min(poll_s, _LOOK_S)
        self._failed = failed
        self._here: dict[EntryKey, Slot] = {}
        self._local: dict[EntryKey, Ticket] = {}
        self._writing: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._closing = False

    def open(self, slot: Slot, request_id: str) -> None:
        """Take note of a request, in the background."""
        slot.ids[request_id] = None
        key = ticket_key(slot.question.key.namespace, request_id)
        self._here[key] = slot

        def answered(_: object) -> None:
            if self._here.get(key) is slot:
                del self._here[key]

        slot.answer.add_done_callback(answered)
        self._start(self._put(key, new_ticket(slot), DEFERRED_MAX_S))

    async def write(
        self, namespace: str, ids: Iterable[str], ticket: Ticket, ttl_s: float = DEFERRED_MAX_S
    ) -> None:
        """Say what is known of requests; wakes whoever waits for one of them here."""
        if self._writing:
            await asyncio.wait(self._writing)  # else an older one could come later
        keys = [ticket_key(namespace, each) for each in ids]
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            await asyncio.gather(*(self._put(key, ticket, ttl_s) for key in some))
        self._ring()

    async def fetch(self, namespace: str, request_id: str, timeout_s: float) -> Completion:
        """Wait for the answer of a request.

        Raises AnswerTimeoutError if it is not there yet, UnknownRequestError if it never will be,
        the failure of a request that failed, and StoreError where the store cannot be asked.
        """
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + timeout_s
        key = ticket_key(namespace, request_id)
        doubted = False
        while not self._closing:
            news = self._news
            ticket = await self._read(key)
            found, under_way = await self._found(namespace, ticket)
            under_way = under_way or key in self._here
            if found is not None:
                return found
            if not under_way and not await self._has_batch(namespace, ticket):
                # Once more: it may have ended between two looks.
                if doubted:
                    raise UnknownRequestError("it is not under way any more: ask again")
                doubted = True
                continue
            doubted = False
            left_s = give_up_s - loop.time()
            if left_s <= 0:
                raise AnswerTimeoutError("the answer is not there yet")
            await _wait(news, min(left_s, self._pause_s))
        raise UpstreamUnavailableError(STOPPING)

    async def close(self) -> None:
        """End all waits, and wait for what is being written."""
        self._closing = True
        self._ring()
        while self._writing:
            await asyncio.wait(self._writing)

    async def _found(self, namespace: str, ticket: Ticket) -> tuple[Completion | None, bool]:
        """Return the answer, or whether somebody is at it for certain."""
        kept = ticket.state is TicketState.KEPT
        if ticket.refresh and not kept:
            return None, False  # what is there is not yet its answer
        hit = await self._prompts.peek(EntryKey(namespace, ticket.digest))
        if isinstance(hit, Hit):
            found = answers.from_cache(hit)
            if found is not None:
                return found, True
        elif hit.degraded:
            raise StoreUnavailableError("the store cannot be asked")
        elif hit.in_progress and not kept:
            return None, True
        if kept:
            raise UnknownRequestError("the cache has its answer no longer: ask again")
        return None, False

    async def _has_batch(self, namespace: str, ticket: Ticket) -> bool:
        try:
            return ticket.batch in await self._store.list_batches()
        except StoreError:
            self._failed(namespace, "list_batches")
            raise

    async def _read(self, key: EntryKey) -> Ticket:
        """Read a ticket that says nothing of a failure; raises AskError or StoreError."""
        ticket = await self._stored(key) or self._local.get(key)
        if ticket is None:
            raise UnknownRequestError("nothing is known of a deferred request of this id")
        if ticket.state is TicketState.FAILED:
            raise ticket.error()
        return ticket

    async def _stored(self, key: EntryKey) -> Ticket | None:
        try:
            stored = await self._store.read_ticket(key)
        except StoreError:
            self._failed(key.namespace, "read_ticket")
            if key in self._local:
                return None
            raise
        try:
            return None if stored is None else decode_ticket(stored)
        except RecordError:
            self._failed(key.namespace, "decode")
            return None

    async def _put(self, key: EntryKey, ticket: Ticket, ttl_s: float) -> None:
        try:
            await self._store.put_ticket(key, encode_ticket(ticket), ttl_s)
        except StoreError:
            self._failed(key.namespace, "put_ticket")
            self._local.pop(key, None)
            self._local[key] = ticket
            if len(self._local) > _LOCAL_MAX:
                del self._local[next(iter(self._local))]
        else:
            self._local.pop(key, None)

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def _ring(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def new_ticket(slot: Slot) -> Ticket:
    """Return the ticket of a question that is under way."""
    refresh = slot.request.cache is not CacheUse.USE
    return Ticket(slot.question.key.digest, slot.entrusted_to, refresh)


def failed_ticket(ticket: Ticket, failure: str, problem: str) -> Ticket:
    """Return the ticket of a request without an answer."""
    return replace(ticket, state=TicketState.FAILED, failure=failure, problem=problem)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
