"""The drop-in: answers requests from the cache, and lets all others through as they are."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from anthropic import APIResponse, AsyncAPIResponse, Middleware

from mge_cache import _wire
from mge_cache._channel import resolve_target
from mge_cache._key import DEFAULT_NAMESPACE
from mge_cache._types import Hit, PromptKey
from mge_cache.aio import AsyncClient
from mge_cache.anthropic._calls import Bypass, Call, Options, consider
from mge_cache.anthropic._counts import Counts
from mge_cache.anthropic._directions import CACHE_HEADER
from mge_cache.anthropic._policy import Reason
from mge_cache.anthropic._record import UnreadableError
from mge_cache.anthropic._replay import replay
from mge_cache.anthropic._sides import AsyncSide, SyncSide
from mge_cache.errors import ClientClosedError, InvalidRequestError
from mge_cache.sync import Client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from anthropic import APIRequest, AsyncCallNext, CallNext

    from mge_cache._leads import AsyncLead, Lead
    from mge_cache._types import Timeouts
    from mge_cache.anthropic._recording import Recording

Response = TypeVar("Response", APIResponse[Any], AsyncAPIResponse[Any])

ANSWER_MAX_BYTES = 8 << 20


class _Terms(TypedDict):
    ttl_s: float | None
    masterplan: str | None
    tags: tuple[str, ...]


class PromptCacheMiddleware(Middleware):
    """Gives ``Anthropic`` and its kin (async, Bedrock, Vertex) the prompt cache of the sidecar.

    Hand it to a client: ``AsyncAnthropic(middleware=[PromptCacheMiddleware(masterplan="…")])``. One
    instance may serve any number of clients, threads and event loops. docs/anthropic.md says what
    is cached and what never is.

    ``masterplan`` and ``tags`` name what answers can be invalidated by, ``ttl_s`` how long they
    live (None: the sidecar's default). ``namespace`` separates tenants: whoever shares one may get
    the other's answers. ``target`` and ``timeouts`` are those of ``AsyncClient``; a ``client`` in
    their place is the caller's to close. ``wait_s``: how long to wait for an equal call under way
    (never longer than the request's own time-out). ``max_temperature``: hotter requests pass by.
    ``vary``: names of headers that change the answer; those that begin with ``anthropic-`` do
    anyway. Answers larger than ``answer_max_bytes`` (of a response's body) are not stored.

    Answers are stored behind the caller's back; ``aclose`` (in an event loop) or ``close`` waits
    for the last ones. Both can be left out: a loop or an interpreter that ends waits for them too.
    """

    def __init__(
        self,
        *,
        masterplan: str | None = None,
        tags: Sequence[str] = (),
        ttl_s: float | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        target: str | None = None,
        timeouts: Timeouts | None = None,
        client: AsyncClient | Client | None = None,
        wait_s: float = 60.0,
        max_temperature: float | None = None,
        vary: Sequence[str] = (),
        answer_max_bytes: int = ANSWER_MAX_BYTES,
    ) -> None:
        # Mistakes show here, not in a call.
        checked = PromptKey(key=bytes(32), model="any", namespace=namespace)
        _wire.set_request(checked, ttl_s=ttl_s, masterplan=masterplan, tags=tags)
        if isinstance(vary, str):
            raise InvalidRequestError("vary", "must be a sequence of names, not one text")
        self._options = Options(
            masterplan=masterplan,
            tags=tuple(tags),
            ttl_s=ttl_s,
            namespace=namespace,
            wait_s=wait_s,
            max_temperature=max_temperature,
            vary=tuple(name.lower() for name in vary),
            answer_max_bytes=answer_max_bytes,
        )
        self._given = client
        self._target = client.target if client else resolve_target(target)
        self._timeouts = timeouts
        self._counts = Counts()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._sync_side: SyncSide | None = None
        self._async_sides: dict[asyncio.AbstractEventLoop, AsyncSide] = {}
        self._past_failures = 0

    @property
    def counts(self) -> Mapping[str, int]:
        """What was done: ``hit``, ``miss``, ``off``, ``bypass/REASON``, ``not_stored/REASON``.

        ``unreadable``: stored answers of another version, which were asked for anew.
        """
        return self._counts.as_dict()

    @property
    def failures(self) -> int:
        """How many look-ups and stores failed, so that calls were made without them."""
        with self._lock:
            sides = [*self._async_sides.values(), self._sync_side]
            return self._past_failures + sum(side.client.failures for side in sides if side)

    async def handle_async(
        self, request: APIRequest, call_next: AsyncCallNext
    ) -> AsyncAPIResponse[Any]:
        """Answer a request of an asynchronous client; the SDK calls this for each attempt."""
        call = consider(request, call_next, self._options)
        if isinstance(call, Bypass):
            return self._let_through(await call_next(call.request), call.reason)
        side, started = self._side_of_loop(), time.perf_counter()
        try:
            lead = await self._ask_async(side, call)
            if isinstance(lead, Hit):
                answer = self._hit(lead, call, AsyncAPIResponse[Any], started)
                if answer is not None:
                    return answer
                lead = side.client.lead(call.identity, **self._terms(call))
        except ClientClosedError:
            return self._let_through(await call_next(call.request), Reason.CLOSED)
        recording = side.begin(lead, call.seat.wire, max_bytes=self._options.answer_max_bytes)
        try:
            response = await call_next(call.request)
        except BaseException:
            recording.drop()
            raise
        return self._miss(response, lead, recording)

    def handle(self, request: APIRequest, call_next: CallNext) -> APIResponse[Any]:
        """Answer a request of a synchronous client; the SDK calls this for each attempt."""
        call = consider(request, call_next, self._options)
        if isinstance(call, Bypass):
            return self._let_through(call_next(call.request), call.reason)
        side, started = self._side_of_threads(), time.perf_counter()
        try:
            lead = self._ask(side, call)
            if isinstance(lead, Hit):
                answer = self._hit(lead, call, APIResponse[Any], started)
                if answer is not None:
                    return answer
                lead = side.client.lead(call.identity, **self._terms(call))
        except ClientClosedError:
            return self._let_through(call_next(call.request), Reason.CLOSED)
        recording = side.begin(lead, call.seat.wire, max_bytes=self._options.answer_max_bytes)
        try:
            response = call_next(call.request)
        except BaseException:
            recording.drop()
            raise
        return self._miss(response, lead, recording)

    async def aclose(self) -> None:
        """Wait until the answers of this event loop's calls are stored, and disconnect.

        Streams that are still being read are not stored. A later call connects again.
        """
        with self._lock:
            side = self._async_sides.pop(asyncio.get_running_loop(), None)
        if side is not None:
            await side.close()
            self._forget(side)

    def close(self) -> None:
        """Wait until the answers of synchronous calls are stored, and disconnect.

        A later call connects again.
        """
        with self._lock:
            side, self._sync_side = self._sync_side, None
        if side is not None:
            side.close()
            self._forget(side)

    async def __aenter__(self) -> Self:
        """Return the middleware itself."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close it."""
        await self.aclose()

    def __enter__(self) -> Self:
        """Return the middleware itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close it."""
        self.close()

    async def _ask_async(self, side: AsyncSide, call: Call) -> Hit | AsyncLead:
        terms = self._terms(call)
        if call.refresh:
            return side.client.lead(call.identity, **terms)
        return await side.client.get_or_lead(call.identity, **terms, wait_s=call.wait_s)

    def _ask(self, side: SyncSide, call: Call) -> Hit | Lead:
        terms = self._terms(call)
        if call.refresh:
            return side.client.lead(call.identity, **terms)
        return side.client.get_or_lead(call.identity, **terms, wait_s=call.wait_s)

    def _terms(self, call: Call) -> _Terms:
        return {
            "ttl_s": self._options.ttl_s,
            "masterplan": call.masterplan,
            "tags": self._options.tags,
        }

    def _hit(self, hit: Hit, call: Call, kind: type[Response], started: float) -> Response | None:
        elapsed_s = time.perf_counter() - started
        try:
            response = replay(hit, call.request, call.seat, kind, elapsed_s=elapsed_s)
        except UnreadableError:
            self._counts.add("unreadable")
            return None
        self._counts.add("hit")
        return response

    def _miss(self, response: Response, lead: AsyncLead | Lead, recording: Recording) -> Response:
        self._counts.add("miss")
        if not isinstance(response, (APIResponse, AsyncAPIResponse)):
            recording.drop()  # a middleware further in has answered with something of its own
            return response
        response.headers[CACHE_HEADER] = "miss; degraded" if lead.miss.degraded else "miss"
        if response.http_response.is_success:
            recording.watch(response)
        else:
            recording.drop()
        return response

    def _let_through(self, response: Response, reason: Reason | None) -> Response:
        self._counts.add(f"bypass/{reason}" if reason else "off")
        if reason and isinstance(response, (APIResponse, AsyncAPIResponse)):
            response.headers[CACHE_HEADER] = f"bypass; reason={reason}"
        return response

    def _side_of_loop(self) -> AsyncSide:
        loop = asyncio.get_running_loop()
        with self._lock:
            self._forget_after_fork()
            side = self._async_sides.get(loop)
            if side is None:
                for over in [loop for loop in self._async_sides if loop.is_closed()]:
                    self._past_failures += self._async_sides.pop(over).client.failures
                given = self._given if isinstance(self._given, AsyncClient) else None
                client = given or AsyncClient(self._target, timeouts=self._timeouts)
                side = AsyncSide(client, self._counts, owned=given is None)
                self._async_sides[loop] = side
        return side

    def _side_of_threads(self) -> SyncSide:
        with self._lock:
            self._forget_after_fork()
            if self._sync_side is None:
                given = self._given if isinstance(self._given, Client) else None
                client = given or Client(self._target, timeouts=self._timeouts)
                self._sync_side = SyncSide(client, self._counts, owned=given is None)
            return self._sync_side

    def _forget(self, side: AsyncSide | SyncSide) -> None:
        with self._lock:
            self._past_failures += side.client.failures

    def _forget_after_fork(self) -> None:
        """Leave the connections of a parent process to it: gRPC's do not survive a fork."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._sync_side = None
            self._async_sides = {}
