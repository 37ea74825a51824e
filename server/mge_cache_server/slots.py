"""An answer that is being asked for, shared by all who asked for it.

A slot keeps the text as it arrives; each caller reads it at a pace of its own, by a place in that
text. So whoever joins late replays what there is, a reader who is slow gets fewer and longer parts,
holds up nobody, and costs no memory beyond the text. Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mge_cache_server.generation import AnswerSource, Completion

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache_server.errors import MgeError
    from mge_cache_server.generation import Question, Reply, Request
    from mge_cache_server.model import Lease
    from mge_cache_server.upstream_ahead import Ahead


@dataclass(frozen=True, slots=True)
class Progress:
    """What is new to a reader: in this order, a restart, some text, and the end."""

    restarted: bool
    text: str
    outcome: Completion | MgeError | None


class Slot:
    """One question under way. ``gone()`` is called when the last caller leaves before the end."""

    def __init__(self, request: Request, *, gone: Callable[[], object]) -> None:
        self.request = request
        self.tags = dict.fromkeys(request.tags)
        """Of all who asked: each of them may invalidate the answer."""
        self.answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        """What a strategy finds out. Cancelled if nobody waits for it any more."""
        self.is_kept = True
        """Whether the answer may be stored."""
        self.lease: Lease | None = None
        """The right to answer it for all sidecars, while whoever leads the slot holds it."""
        self.ids: dict[str, None] = {}
        """Of the deferred requests that asked: their answer may be fetched by them later."""
        self.entrusted_to = ""
        """The deferred batch that answers it, whoever waits: it keeps lease and answer."""
        self.ahead: Ahead | None = None
        """A call for it alone that is made ready while the cache is asked."""
        self._gone = gone
        self._readers: dict[Reader, None] = {}
        self._chunks: list[str] = []
        self._version = 0
        self._outcome: Completion | MgeError | None = None

    @property
    def question(self) -> Question:
        """What is asked."""
        return self.request.question

    @property
    def is_over(self) -> bool:
        """Whether the callers have their outcome."""
        return self._outcome is not None

    @property
    def is_wanted(self) -> bool:
        """Whether a strategy still has to find the answer."""
        return not self.answer.done()

    @property
    def joined(self) -> int:
        """How many read it beyond the first."""
        return sum(not reader.first for reader in self._readers)

    def join(self, tags: tuple[str, ...], wake: Callable[[], None]) -> Reader:
        """Add a caller, who gets it from the beginning; ``wake()`` says that there is more."""
        self.tags.update(dict.fromkeys(tags))
        reader = Reader(self, wake, first=not self._readers)
        self._readers[reader] = None
        if self._chunks or self._outcome is not None:
            wake()
        return reader

    def feed(self, text: str) -> None:
        """Add to the text."""
        if text:
            self._chunks.append(text)
            self._tell()

    def restart(self) -> None:
        """Take the text back: it is asked for again."""
        if self._chunks:
            self._chunks.clear()
            self._version += 1
            self._tell()

    def settle(self, reply: Reply) -> None:
        """Give the answer to whoever leads the slot."""
        if not self.answer.done():
            self.answer.set_result(reply)

    def refuse(self, error: MgeError) -> None:
        """Say that there is no answer."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # seen, even if whoever led the slot has just been cancelled

    def complete(self, completion: Completion) -> None:
        """End it for all callers."""
        self._end(completion)

    def fail(self, error: MgeError) -> None:
        """End it for all callers without an answer."""
        self._end(error)

    def _end(self, outcome: Completion | MgeError) -> None:
        if self._outcome is None:
            self._outcome = outcome
            self._tell()

    def _tell(self) -> None:
        for reader in self._readers:
            reader.wake()

    def _read(self, reader: Reader) -> Progress:
        restarted = reader.version != self._version
        if restarted:
            reader.version, restarted, reader.place = self._version, reader.place > 0, 0
        text = "".join(self._chunks[reader.place :])
        reader.place = len(self._chunks)
        outcome = self._outcome
        reader.told = outcome is not None
        if isinstance(outcome, Completion) and not reader.first:
            outcome = _shared(outcome)
        return Progress(restarted, text, outcome)

    def _leave(self, reader: Reader) -> None:
        self._readers.pop(reader, None)
        if not self._readers:
            if self._outcome is None:
                self._gone()
        elif reader.first and not reader.told:
            # Somebody has to account for what it costs.
            heir = next((each for each in self._readers if not each.told), None)
            if heir is not None:
                heir.first = True


class Reader:
    """A caller's place in a slot.

    ``first``: the one for whom the question is asked. ``told``: it has taken the outcome.
    """

    def __init__(self, slot: Slot, wake: Callable[[], None], *, first: bool) -> None:
        self.wake = wake
        self.first = first
        self.told = False
        self.place = 0
        self.version = 0
        self._slot = slot

    def take(self) -> Progress:
        """Return what is new since the last time."""
        return self._slot._read(self)  # noqa: SLF001 - two halves of one thing

    def leave(self) -> None:
        """Stop reading: the request was given up, or its time is over."""
        self._slot._leave(self)  # noqa: SLF001


def _shared(completion: Completion) -> Completion:
    """Return a completion as those see it who did not pay for it."""
    if completion.source is AnswerSource.CACHE:
        return completion
    return replace(
        completion,
        source=AnswerSource.FLIGHT,
        cost_saved_usd=completion.cost_usd,
        cost_usd=0.0,
    )
