"""What has come so far of one request's replies, and what of it its caller has not seen yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mge_cache import _wire_generate
from mge_cache._generate_types import Completion, Delta
from mge_cache.errors import InternalError, MgeCacheError

if TYPE_CHECKING:
    from mge_cache.v1 import cache_service_pb2 as pb

TEXT_MAX = 64 << 20
"""Characters of one answer. A sidecar lets through far less (8 MiB unless it was changed): an
answer beyond this is an error of the sidecar's, and ends."""


class Reply:
    """Joins the deltas that nobody has taken, so that a slow reader gets fewer, longer ones.

    The texts of the deltas taken since the last one with ``restart``, joined, are a beginning of
    the answer; once there is a completion and no delta is left, they are its text. So it does not
    matter whether the sidecar sent deltas, or the completion alone. Memory is bounded by the answer
    and ``text_max``. ``deferred``: if the time is over, the answer can still come. Not thread safe.
    """

    def __init__(self, *, deferred: bool = False, text_max: int = TEXT_MAX) -> None:
        self.outcome: Completion | MgeCacheError | None = None
        """How it ended; what comes after that is ignored."""
        self._deferred = deferred
        self._text_max = text_max
        self._taken: list[str] = []
        self._fresh: list[str] = []
        self._restart = False
        self._length = 0

    @property
    def has_delta(self) -> bool:
        """Whether there is something to ``take``."""
        return self._restart or bool(self._fresh)

    def result(self) -> Completion | None:
        """Return the completion, or None if it is not over. Raises the error that it ended with."""
        if isinstance(self.outcome, MgeCacheError):
            raise self.outcome
        return self.outcome

    def take(self) -> Delta | None:
        """Return all text that has come since the last time, or None."""
        if not self.has_delta:
            return None
        delta = Delta("".join(self._fresh), restart=self._restart)
        self._taken.append(delta.text)
        self._fresh.clear()
        self._restart = False
        return delta

    def receive(self, response: pb.GenerateResponse) -> bool:
        """Take a reply in; return whether the sidecar goes on with a request that is over here."""
        if self.outcome is not None:
            return False
        event = response.WhichOneof("event")
        match event:
            case "delta":
                self._add(response.delta)
            case "restart":
                self._begin_anew()
            case "completion":
                self._complete(response)
            case "error":
                self.outcome = _wire_generate.reply_error(response.error, deferred=self._deferred)
        # Other events are a newer sidecar's; this client can do without them.
        return self.outcome is not None and event not in {"completion", "error"}

    def fail(self, error: MgeCacheError) -> None:
        """End it, unless it has ended."""
        if self.outcome is None:
            self.outcome = error

    def drop(self) -> None:
        """Forget what has not been taken."""
        self._fresh.clear()
        self._restart = False

    def _add(self, text: str) -> None:
        self._length += len(text)
        if self._length > self._text_max:
            self.drop()
            self.outcome = InternalError(f"the answer has more than {self._text_max} characters")
        elif text:
            self._fresh.append(text)

    def _begin_anew(self) -> None:
        # A caller who has seen nothing of the void text need not hear of it.
        self._restart = self._restart or any(self._taken)
        self._taken.clear()
        self._fresh.clear()
        self._length = 0

    def _complete(self, response: pb.GenerateResponse) -> None:
        try:
            completion = _wire_generate.completion_of(response)
        except InternalError as exc:
            self.outcome = exc
            return
        told = "".join((*self._taken, *self._fresh))
        if completion.text.startswith(told):
            rest = completion.text[len(told) :]
        else:
            self._begin_anew()
            rest = completion.text
        if rest:
            self._fresh.append(rest)
        self.outcome = completion
