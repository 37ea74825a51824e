"""Anthropic, as the batcher's strategies see it, in virtual time: every answer is dictated.

It stands for ``Upstream``, in this process; what the real one makes of the network is tested in
``tests/rpc``.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from mge_cache_server.limiter import Limiter
from mge_cache_server.merge_prompt import answer_line, end_line
from mge_cache_server.model import Usage
from mge_cache_server.prices import ModelPrice, Prices
from mge_cache_server.upstream_events import Begun, Ended, UpstreamEvent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

_FENCE = re.compile(r"^\[([0-9a-f]{24}) request \d+\]\n", re.MULTILINE)
INPUT_USD = 1e-6
OUTPUT_USD = 5e-6
LONG_SYSTEM = "Answer as a careful engineer would. " * 600
"""So long that merging pays for two requests already."""


def prices() -> Prices:
    """Prices of all models: no list has to be loaded."""
    price = ModelPrice(((-1, 1.0),), ((-1, 5.0),), ((-1, 0.1),), ((-1, 1.25),))
    return Prices({"*": price})


class Asked:
    """One call. ``number`` counts them from 0."""

    def __init__(self, number: int, body: Mapping[str, Any], text: str) -> None:
        self.number = number
        self.body = body
        found = _FENCE.search(text)
        self.nonce = found[1] if found else ""
        self.prompts = [text] if found is None else _prompts(text, found[1])
        self.cancelled = False
        self.over = False
        self.billed = Usage()
        """What it cost, once it has ended."""
        self.events: asyncio.Queue[UpstreamEvent | Exception] = asyncio.Queue()

    def begin(self) -> None:
        """Begin the answer."""
        self.events.put_nowait(Begun())

    def say(self, text: str) -> None:
        """Go on with it."""
        self.events.put_nowait(text)

    def end(self, stop_reason: str = "end_turn") -> None:
        """End it; each call has a bill unlike the others'."""
        self.billed = Usage(100 + 7 * self.number, 50 + 3 * self.number)
        self.events.put_nowait(Ended(stop_reason, self.billed, 1.0))

    def fail(self, error: Exception) -> None:
        """Break off."""
        self.events.put_nowait(error)

    def reply(self, texts: Sequence[str]) -> str:
        """Write the reply in good order, if it is a merged call."""
        if not self.nonce:
            return texts[0]
        lines = [f"{answer_line(self.nonce, i)}\n{text}" for i, text in enumerate(texts, start=1)]
        return "\n".join([*lines, end_line(self.nonce)])


class DictatedUpstream:
    """Has ``Upstream``'s ``stream`` and ``limiter``. ``calls`` are all that were begun."""

    def __init__(self, calls_max: int = 32) -> None:
        self.limiter = Limiter(calls_max)
        self.calls: list[Asked] = []

    @property
    def live(self) -> list[Asked]:
        """The calls under way."""
        return [each for each in self.calls if not each.over]

    def make_ahead(self, body: Mapping[str, Any], messages: Sequence[Any]) -> None:
        """See ``Upstream.make_ahead``: nothing is made ready."""

    async def stream(
        self,
        body: Mapping[str, Any],
        messages: Sequence[Any],
        ahead: None = None,  # noqa: ARG002
    ) -> AsyncGenerator[UpstreamEvent, None]:
        """See ``Upstream.stream``."""
        async with self.limiter.permit():
            call = Asked(len(self.calls), body, messages[0]["content"])
            self.calls.append(call)
            try:
                while not isinstance(event := await call.events.get(), Ended):
                    if isinstance(event, Exception):
                        raise event
                    yield event
                yield event
                self.limiter.succeeded()
            except (asyncio.CancelledError, GeneratorExit):
                call.cancelled = True
                raise
            finally:
                call.over = True


def _prompts(text: str, nonce: str) -> list[str]:
    whole = text.removesuffix(f"\n[{nonce} end of requests]")
    return [each.removesuffix("\n") for each in _FENCE.split(whole)[2::2]]
