"""A request that was sent to Generate, as its caller's threads see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mge_cache._stream_parts import abandoned, overdue
from mge_cache.errors import AbandonedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from mge_cache._generate_types import Completion, Delta
    from mge_cache._stream import Stream, ThreadReply


class Generation:
    """The answer to one request, as it grows.

    Iterating yields its deltas as they come; a reader who is slow gets fewer, longer ones, and
    holds nobody else up. ``generation.result()`` waits for the whole of it, with or without having
    iterated. The texts of the deltas since the last one with ``restart``, joined, are the result's
    ``text``, even if it came from the cache in one piece. Both raise MgeCacheError.

    Abandoning it tells the sidecar to give it up: ``close``, leaving a ``with`` block, interrupting
    a thread that waits for it, or letting go of it. Any thread may use it; of those that iterate,
    each gets some of the deltas.
    """

    def __init__(self, stream: Stream, reply: ThreadReply, request_id: str) -> None:
        self.request_id = request_id
        """What ``fetch`` asks by, if the request is deferred."""
        self._stream = stream
        self._reply = reply

    def __iter__(self) -> Self:
        """Return the generation itself."""
        return self

    def __next__(self) -> Delta:
        """Wait for the next part of the text."""
        reply = self._reply
        with reply.changed:
            while (delta := reply.take()) is None:
                if isinstance(reply.outcome, AbandonedError) or reply.result() is not None:
                    raise StopIteration
                self._wait()
        return delta

    def result(self) -> Completion:
        """Wait for the whole answer. Raises AbandonedError after ``close``."""
        with self._reply.changed:
            while (completion := self._reply.result()) is None:
                self._wait()
        return completion

    def close(self) -> None:
        """Give the request up, and what of its text was not read, unless it has ended."""
        with self._reply.changed:
            if self._reply.outcome is not None:
                return
            self._reply.drop()
        self._stream.give_up(self.request_id)
        self._reply.end(abandoned())

    @property
    def deadline_s(self) -> float:
        """When its time is over, by ``time.monotonic``."""
        return self._reply.deadline_s

    def expire(self) -> None:
        """Give it up if its time is over."""
        if self._reply.is_overdue:
            self._stream.give_up(self.request_id)
            self._reply.end(overdue())

    def when_ended(self, call: Callable[[], None]) -> None:
        """Have ``call``, which takes no lock, called in some thread when it has ended."""
        self._reply.when_ended(call)

    def __enter__(self) -> Self:
        """Return the generation itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Give it up if it has not ended."""
        self.close()

    def __del__(self) -> None:
        """Give it up when nobody can read it any more; this takes no lock."""
        if self._reply.outcome is None:
            self._stream.give_up(self.request_id)

    def _wait(self) -> None:
        """Wait for something new, holding the reply, which is let go of meanwhile."""
        try:
            self._reply.wait()
        except BaseException:
            self.close()
            raise
        self.expire()
