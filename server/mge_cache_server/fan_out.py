"""A call for each question of a batch, side by side, over a prefix that Anthropic has cached.

What the questions have in common, the system prompt, is marked for Anthropic's prompt cache where
that pays: writing it costs 1.25 times its input price, reading it 0.1 times. So n calls cost
1.25 + 0.1 (n - 1) in place of n, less from two calls on, if the prefix is long enough to be cached
at all. The first call goes ahead until its answer begins; from then on the others find it there.
A call that is alone marks its prefix if the same one was asked with within the last five minutes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from mge_cache_server.errors import AskError, DefectError
from mge_cache_server.generation import Reply, Strategy
from mge_cache_server.model import Usage
from mge_cache_server.upstream_events import Begun, Ended

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from mge_cache_server.prices import Prices
    from mge_cache_server.slots import Slot
    from mge_cache_server.upstream import Upstream

_log = logging.getLogger(__name__)

PREFIX_TOKENS_MIN: Final = 1024
"""The shortest prefix that Anthropic caches. Some models want more; a vain mark costs nothing."""

_BYTES_PER_TOKEN = 4
_WARM_S = 280.0
"""Anthropic keeps a prefix for 5 minutes from its last use."""
_PREFIXES_MAX = 1024


@dataclass(slots=True)
class _Prefix:
    """What is known of a group's prefix: when it is forgotten, and whether it is cached."""

    until_s: float
    cached: bool


class FanOut:
    """Asks each question in a call of its own."""

    def __init__(
        self,
        upstream: Upstream,
        prices: Prices,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self._prices = prices
        self._now = now
        self._prefixes: dict[bytes, _Prefix] = {}

    def prepare(self, slot: Slot) -> None:
        """See ``Dispatch``."""
        question = slot.question
        marked = (
            with_marked_prefix(question.body) if self._known(question.group) is not None else None
        )
        body = question.body if marked is None else marked
        slot.ahead = self._upstream.make_ahead(body, question.messages)

    async def send(self, slots: Sequence[Slot]) -> None:
        """Answer each slot, or refuse it."""
        first, *others = slots
        question, size = first.question, len(slots)
        known = self._known(question.group)
        marked = with_marked_prefix(question.body) if others or known is not None else None
        ahead = bool(others) and marked is not None and not (known is not None and known.cached)
        if not others:
            await call_for([first], self.ask(first, marked))
            return
        begun = asyncio.Event()
        async with asyncio.TaskGroup() as calls:
            leader = start_call(
                calls, [first], self.ask(first, marked, batch_size=size, begun=begun)
            )
            if ahead:
                leader.add_done_callback(lambda _: begun.set())
                await begun.wait()
            for slot in others:
                if slot.is_wanted:  # its caller may have left while the first went ahead
                    start_call(calls, [slot], self.ask(slot, marked, batch_size=size))

    async def ask(
        self,
        slot: Slot,
        marked: Mapping[str, Any] | None = None,
        *,
        batch_size: int = 1,
        begun: asyncio.Event | None = None,
        paid: Reply | None = None,
    ) -> None:
        """Ask one question; the text goes to its slot as it arrives.

        ``marked`` is its body with a prefix that Anthropic shall cache. ``paid`` is what it has
        cost already, as a part of a merged call.
        """
        question = slot.question
        body = question.body if marked is None else marked
        parts: list[str] = []
        stream = self._upstream.stream(body, question.messages, slot.ahead)
        try:
            async with aclosing(stream) as events:
                async for event in events:
                    match event:
                        case str():
                            parts.append(event)
                            slot.feed(event)
                        case Begun():
                            self._remember(question.group, cached=marked is not None)
                            if begun is not None:
                                begun.set()
                        case Ended(stop_reason, usage, seconds):
                            reply = Reply(
                                text="".join(parts),
                                stop_reason=stop_reason,
                                usage=usage,
                                cost_usd=0.0,
                                priced=False,
                                compute_s=seconds,
                                batch_size=batch_size,
                                strategy=Strategy.FAN_OUT,
                            )
                            reply = await self._priced(question.model, reply)
                            slot.settle(reply if paid is None else _with(reply, paid))
        except AskError as exc:
            slot.refuse(exc)

    def is_warm(self, group: bytes) -> bool:
        """Whether Anthropic has the prefix of a group in its cache, as far as is known here."""
        known = self._known(group)
        return known is not None and known.cached

    async def _priced(self, model: str, reply: Reply) -> Reply:
        await self._prices.prepare(model)
        cost_usd = self._prices.cost_usd(model, reply.usage)
        return replace(reply, cost_usd=cost_usd or 0.0, priced=cost_usd is not None)

    def _known(self, group: bytes) -> _Prefix | None:
        known = self._prefixes.get(group)
        return known if known is not None and known.until_s > self._now() else None

    def _remember(self, group: bytes, *, cached: bool) -> None:
        known = self._known(group)
        self._prefixes.pop(group, None)
        if known is not None and known.cached and not cached:
            # A call without a mark does not keep it warm.
            self._prefixes[group] = known
        else:
            self._prefixes[group] = _Prefix(self._now() + _WARM_S, cached)
        if len(self._prefixes) > _PREFIXES_MAX:
            del self._prefixes[next(iter(self._prefixes))]


async def call_for(slots: Sequence[Slot], ask: Awaitable[None]) -> None:
    """Make a call that ends early if nobody waits for any of its answers any more."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - else nothing could be awaited
    is_given_up = False

    def given_up(_: object) -> None:
        nonlocal is_given_up
        if not is_given_up and all(slot.answer.cancelled() for slot in slots):
            is_given_up = True
            task.cancel()

    for slot in slots:
        slot.answer.add_done_callback(given_up)
    try:
        await _kept_apart(slots, ask)
    except asyncio.CancelledError:
        if not is_given_up or task.uncancel() > 0:
            raise
    finally:
        for slot in slots:
            slot.answer.remove_done_callback(given_up)


async def _kept_apart(slots: Sequence[Slot], ask: Awaitable[None]) -> None:
    """Make a call whose defects are told to those who wait for it, and to nobody else."""
    try:
        await ask
    except Exception as exc:  # noqa: BLE001 - in a task group it would end the others' calls
        where = traceback.extract_tb(exc.__traceback__)[-1]
        place = f"{PurePath(where.filename).name}:{where.lineno}"
        # Not its text: that may quote what was asked.
        failure = {"error": type(exc).__name__, "place": place}
        _log.error("internal error", extra={"method": "Generate", **failure})
        for slot in slots:
            slot.refuse(DefectError("internal error; see the sidecar's log"))


def start_call(
    calls: asyncio.TaskGroup, slots: Sequence[Slot], ask: Coroutine[Any, Any, None]
) -> asyncio.Task[None]:
    """Start a call that ends early if nobody waits for any of its answers any more."""
    task = calls.create_task(_kept_apart(slots, ask))

    def given_up(_: object) -> None:
        if all(slot.answer.cancelled() for slot in slots):
            task.cancel()

    for slot in slots:
        slot.answer.add_done_callback(given_up)
    return task


def with_marked_prefix(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Mark the system prompt for Anthropic's prompt cache; None if that cannot pay."""
    blocks = _blocks(body.get("system"))
    if not blocks or any("cache_control" in each for each in blocks):
        return None  # whoever marks a prefix knows better than we do
    if len(json.dumps(blocks).encode()) < PREFIX_TOKENS_MIN * _BYTES_PER_TOKEN:
        return None
    last = {**blocks[-1], "cache_control": {"type": "ephemeral"}}
    return {**body, "system": [*blocks[:-1], last]}


def _with(reply: Reply, paid: Reply) -> Reply:
    """Return an answer that has cost what was paid before, too."""
    usage = Usage(
        reply.usage.input_tokens + paid.usage.input_tokens,
        reply.usage.output_tokens + paid.usage.output_tokens,
        reply.usage.cache_read_tokens + paid.usage.cache_read_tokens,
        reply.usage.cache_write_tokens + paid.usage.cache_write_tokens,
    )
    return replace(
        reply,
        usage=usage,
        cost_usd=reply.cost_usd + paid.cost_usd,
        compute_s=reply.compute_s + paid.compute_s,
    )


def _blocks(system: object) -> list[dict[str, Any]]:
    if isinstance(system, str) and system:
        return [{"type": "text", "text": system}]
    if isinstance(system, list) and all(isinstance(each, dict) for each in system):
        return system
    return []
