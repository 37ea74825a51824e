"""The client for threads."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from mge_cache import _wire
from mge_cache._channel import resolve_target
from mge_cache._connection import Connection
from mge_cache._health import Health
from mge_cache._key import DEFAULT_NAMESPACE
from mge_cache._types import Miss, Timeouts
from mge_cache.errors import ClientClosedError, MgeCacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from typing import Self

    from mge_cache._types import Answer, Hit, Lease, SetResult, Stats
    from mge_cache._wire import Computed, Found, Identified
    from mge_cache.v1 import cache_service_pb2 as pb
    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceStub


class Client:
    """Talks to the sidecar from any number of threads.

    ``target`` is ``unix:/path`` or ``host:port``; None: $MGE_CACHE_TARGET, else 127.0.0.1:50151.
    The constructor does no I/O, and the first call connects: make it after a fork, not before.

    With ``fail_open`` (the default) an outage never shows in ``get_or_compute``: where the sidecar
    is down, hangs or refuses, the answer is computed, and ``failures`` counts it. The other
    methods, and ``get_or_compute`` without ``fail_open``, raise MgeCacheError (see
    ``mge_cache.errors``). ``send_prompt``: send whole requests and let the sidecar compute the key;
    by default no prompt leaves the process.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        timeouts: Timeouts | None = None,
        fail_open: bool = True,
        send_prompt: bool = False,
    ) -> None:
        self.target = resolve_target(target)
        self._timeouts = timeouts or Timeouts()
        self._fail_open = fail_open
        self._send_prompt = send_prompt
        self._health = Health(self.target, retry_s=self._timeouts.retry_s)
        self._connection = Connection(self.target)

    @property
    def stub(self) -> CacheServiceStub:
        """The generated stub, for calls without deadlines, defaults and types of this client."""
        return self._connection.stub

    @property
    def failures(self) -> int:
        """How many look-ups and stores ``get_or_compute`` had to do without."""
        return self._health.failures

    def get_or_compute(
        self,
        request: Identified,
        compute: Callable[[], Computed],
        *,
        ttl_s: float | None = None,
        masterplan: str | None = None,
        tags: Sequence[str] = (),
        wait_s: float = 60.0,
    ) -> Answer:
        """Return the cached answer, or the one that another caller is computing, or compute it.

        ``compute`` is called at most once, in this thread, and only if nobody else's answer arrived
        within ``wait_s``; what it raises is raised here, unchanged. Its answer is stored for
        ``ttl_s`` (None: the sidecar's default), to be invalidated by ``masterplan`` and ``tags``.
        While it runs, other callers wait; if it fails, the next of them computes at once.
        """
        message = _wire.set_request(
            request,
            ttl_s=ttl_s,
            masterplan=masterplan,
            tags=tags,
            send_prompt=self._send_prompt,
        )
        found = self._find(request, wait_s)
        if not isinstance(found, Miss):
            return found.answer
        with contextlib.ExitStack() as stack:
            if found.lease:
                stack.enter_context(self.hold(found.lease))
            started = time.perf_counter()
            answer = _wire.answer_of(compute())
            compute_s = time.perf_counter() - started
            self._keep(message, answer, found.lease, compute_s)
        return answer

    def get(
        self,
        request: Identified,
        *,
        lease: bool = False,
        lease_ttl_s: float = 0.0,
        wait_s: float = 0.0,
    ) -> Hit | Miss:
        """Look an answer up.

        With ``lease``, the first caller that misses is handed one, for ``lease_ttl_s`` (10 ms to 10
        minutes, 0: 60 s) unless it is held; the others wait for its answer for up to ``wait_s``.
        Without it this is a peek, which the sidecar's statistics count neither as a hit nor as a
        miss.
        """
        message = _wire.get_request(
            request,
            wait_s=wait_s,
            lease_ttl_s=lease_ttl_s,
            peek=not lease,
            send_prompt=self._send_prompt,
        )
        return self._get(message, wait_s)

    def set(
        self,
        request: Identified,
        answer: Computed,
        *,
        ttl_s: float | None = None,
        masterplan: str | None = None,
        tags: Sequence[str] = (),
        lease: Lease | None = None,
        compute_s: float = 0.0,
        preloaded: bool = False,
    ) -> SetResult:
        """Store an answer.

        ``lease``: what ``get`` handed out; without it an invalidation during the computation goes
        unnoticed. ``compute_s``: how long it took, which later hits count as time saved.
        ``preloaded``: the answer was not bought now, so its cost does not count as spent.
        """
        message = _wire.set_request(
            request,
            ttl_s=ttl_s,
            masterplan=masterplan,
            tags=tags,
            preloaded=preloaded,
            send_prompt=self._send_prompt,
        )
        return self._set(
            _wire.complete(message, _wire.answer_of(answer), lease=lease, compute_s=compute_s)
        )

    def hold(self, lease: Lease) -> AbstractContextManager[None]:
        """Keep a lease for as long as a ``with`` block runs.

        Leaving it without having stored the answer hands the lease to the next caller at once.
        """
        message = _wire.hold_request(lease, max_s=self._timeouts.hold_s)
        return self._connection.hold(message, notice_s=self._timeouts.get_s)

    def invalidate(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        key: bytes | None = None,
        masterplan: str | None = None,
        tag: str | None = None,
        model: str | None = None,
        everything: bool = False,
    ) -> int:
        """Make entries of a namespace unreachable; exactly one target must be given.

        Returns the tick of the namespace's clock (microseconds since 1970) at which it took effect.
        UnavailableError: nothing was done; repeat it.
        """
        message = _wire.invalidate_request(
            namespace=namespace,
            key=key,
            masterplan=masterplan,
            tag=tag,
            model=model,
            everything=everything,
        )
        deadline_s = self._timeouts.invalidate_s
        response = self._connection.call(self.stub.Invalidate, message, deadline_s)
        return response.tick

    def stats(self, *, namespace: str = "") -> Stats:
        """Read the sidecar's statistics; "" sums over all namespaces."""
        message = _wire.stats_request(namespace)
        deadline_s = self._timeouts.stats_s
        response = self._connection.call(self.stub.Stats, message, deadline_s)
        return _wire.stats_of(response)

    def close(self) -> None:
        """Close the connection. Calls in flight raise ClientClosedError."""
        self._connection.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close it."""
        self.close()

    def _find(self, request: Identified, wait_s: float) -> Found:
        try:
            found = self._look_up(request, wait_s)
        except ClientClosedError:
            raise
        except MgeCacheError as exc:
            if not self._fail_open:
                raise
            self._health.went_without("GetPrompt", exc)
            return Miss(degraded=True)
        self._health.succeeded("GetPrompt")
        return found

    def _look_up(self, request: Identified, wait_s: float) -> Found:
        """Look up, then wait in slices while somebody else computes the answer."""
        give_up_at = time.monotonic() + wait_s
        asks_again = wait_s > 0
        found = self._look_up_once(request, 0.0, asks_again=asks_again)
        while asks_again and _wire.in_progress(found):
            left_s = max(0.0, give_up_at - time.monotonic())
            slice_s = min(left_s, self._timeouts.slice_s)
            asks_again = slice_s < left_s
            found = self._look_up_once(request, slice_s, asks_again=asks_again)
        return found

    def _look_up_once(self, request: Identified, wait_s: float, *, asks_again: bool) -> Found:
        if self._fail_open:
            self._health.check()
        message = _wire.get_request(
            request,
            wait_s=wait_s,
            lease_ttl_s=self._timeouts.lease_ttl_s,
            asks_again=asks_again,
            send_prompt=self._send_prompt,
        )
        return self._get(message, wait_s)

    def _keep(
        self, message: pb.SetPromptRequest, answer: Answer, lease: Lease | None, compute_s: float
    ) -> None:
        try:
            _wire.complete(message, answer, lease=lease, compute_s=compute_s)
            if self._fail_open:
                self._health.check()
            self._set(message)
        except MgeCacheError as exc:
            if not self._fail_open:
                raise
            self._health.went_without("SetPrompt", exc)
        else:
            self._health.succeeded("SetPrompt")

    def _get(self, message: pb.GetPromptRequest, wait_s: float) -> Found:
        deadline_s = self._timeouts.get_deadline_s(wait_s)
        with self._health.watching(generous=wait_s > 0):
            response = self._connection.call(self.stub.GetPrompt, message, deadline_s)
        return _wire.found_of(response)

    def _set(self, message: pb.SetPromptRequest) -> SetResult:
        deadline_s = self._timeouts.set_s
        with self._health.watching():
            response = self._connection.call(self.stub.SetPrompt, message, deadline_s)
        return _wire.set_result_of(response)
