"""The client for threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mge_cache import _wire
from mge_cache._generate import GenerateCalls
from mge_cache._leads import Lead
from mge_cache._rag import RagCalls
from mge_cache._types import Hit, Miss
from mge_cache._wire_parts import set_result_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mge_cache._types import Answer, Lease, SetResult
    from mge_cache._wire import Computed, Found, Identified
    from mge_cache.v1 import cache_service_pb2 as pb


class Client(RagCalls, GenerateCalls):
    """Talks to the sidecar from any number of threads.

    ``target`` is ``unix:/path`` or ``host:port``; None: $MGE_CACHE_TARGET, else 127.0.0.1:50151.
    The constructor does no I/O, and the first call connects: make it after a fork, not before.

    With ``fail_open`` (the default) an outage never shows in ``get_or_compute`` and
    ``retrieve_or_compute``: where the sidecar is down, hangs or refuses, the result is computed,
    and ``failures`` counts it. The other methods, and these without ``fail_open``, raise
    MgeCacheError (see ``mge_cache.errors``). ``send_prompt``: send whole requests and let the
    sidecar compute the key; by default no prompt leaves the process (RAG queries do, and what
    ``generate`` is given).
    """

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
        flight = _wire.PromptFlight(
            request,
            ttl_s=ttl_s,
            masterplan=masterplan,
            tags=tags,
            send_prompt=self._send_prompt,
        )

        def computed() -> Answer:
            return _wire.answer_of(compute())

        got = self._flights.run(flight, computed, look_up=self._get, store=self._set, wait_s=wait_s)
        return got.answer if isinstance(got, Hit) else got

    def get_or_lead(
        self,
        request: Identified,
        *,
        ttl_s: float | None = None,
        masterplan: str | None = None,
        tags: Sequence[str] = (),
        wait_s: float = 60.0,
    ) -> Hit | Lead:
        """Do the first half of ``get_or_compute``, for an answer that comes later, as a stream's.

        The caller holds the lead that a miss returns while it computes, and has it keep the answer.
        """
        lead = self.lead(request, ttl_s=ttl_s, masterplan=masterplan, tags=tags)
        found = self._flights.find(lead.flight, self._get, wait_s)
        if isinstance(found, Miss):
            lead.miss = found
            return lead
        return found

    def lead(
        self,
        request: Identified,
        *,
        ttl_s: float | None = None,
        masterplan: str | None = None,
        tags: Sequence[str] = (),
    ) -> Lead:
        """Return a lead without a look-up or lease: the answer is computed, whatever is stored."""
        flight = _wire.PromptFlight(
            request,
            ttl_s=ttl_s,
            masterplan=masterplan,
            tags=tags,
            send_prompt=self._send_prompt,
        )
        return Lead(self._flights, flight, store=self._set)

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
        return self._get(message, wait_s, patient=True)

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
            _wire.complete(message, _wire.answer_of(answer), lease=lease, compute_s=compute_s),
            patient=True,
        )

    def _get(self, message: pb.GetPromptRequest, wait_s: float, *, patient: bool = False) -> Found:
        response = self._look_up(self.stub.GetPrompt, message, wait_s, patient=patient)
        return _wire.found_of(response)

    def _set(self, message: pb.SetPromptRequest, *, patient: bool = False) -> SetResult:
        response = self._store(self.stub.SetPrompt, message, patient=patient)
        return set_result_of(response)
