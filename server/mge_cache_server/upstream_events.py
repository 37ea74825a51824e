"""What Anthropic's stream of events says: the answer as it arrives. Knows no SDK but its events."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mge_cache_server.model import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

_log = logging.getLogger(__name__)

_DRAIN_S: Final = 0.1
"""Beyond that, another connection is cheaper than to wait for the end of this response."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The answer begins: what it has in common with others is in Anthropic's prompt cache now."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The answer is complete."""

    stop_reason: str
    usage: Usage
    seconds: float
    """How long it took, from the call on."""


UpstreamEvent = Begun | str | Ended
"""What arrives, in this order: ``Begun``, parts of the text, ``Ended``."""


class CutError(Exception):
    """The stream ended before the answer did."""


async def read_answer(
    events: AsyncIterator[Any], started_s: float
) -> AsyncGenerator[UpstreamEvent, None]:
    """Yield what a call's events (their JSON) say, up to the answer's end; raises CutError if
    there is none.

    ``started_s`` is the ``perf_counter`` at which the call began. What is left of the response is
    read when whoever has taken the end asks for more.
    """  # noqa: D205
    usage, stop_reason = Usage(), ""
    async for event in events:
        said: UpstreamEvent | None = None
        try:
            match event["type"]:
                case "content_block_delta":
                    said = _text(event["delta"])
                case "message_start":
                    usage = _usage(event["message"]["usage"], usage)
                    said = Begun()
                case "message_delta":
                    usage = _usage(event["usage"], usage)
                    stop_reason = _name(event["delta"]["stop_reason"])
                case "message_stop":
                    said = Ended(stop_reason, usage, time.perf_counter() - started_s)
        except (AttributeError, LookupError, TypeError, ValueError):
            # JSON, but not of the contract: as good as a connection that broke.
            raise CutError from None
        if said is not None:
            yield said
        if isinstance(said, Ended):
            await _drain(events)
            return
    raise CutError


async def _drain(events: AsyncIterator[object]) -> None:
    """Read a response to its end, as only then its connection can serve the next call.

    The answer is there: whatever goes wrong costs that connection and nothing else.
    """
    try:
        async with asyncio.timeout(_DRAIN_S):
            async for _ in events:
                pass
    except Exception as exc:  # noqa: BLE001 - of the SDK, of httpx2, of the network: all the same
        _log.debug("a response to Generate did not end", extra={"error": type(exc).__name__})


def _text(delta: Any) -> str | None:
    if delta["type"] != "text_delta":
        return None
    text = delta["text"]
    if not isinstance(text, str):
        raise TypeError
    return text


def _name(stop_reason: object) -> str:
    if not isinstance(stop_reason, str | None):
        raise TypeError
    return stop_reason or ""


def _usage(reported: Any, before: Usage) -> Usage:
    """Read a usage; where a count is not reported, it is as before."""

    def count(name: str, known: int) -> int:
        value = reported.get(name)
        return known if value is None else int(value)

    return Usage(
        count("input_tokens", before.input_tokens),
        count("output_tokens", before.output_tokens),
        count("cache_read_input_tokens", before.cache_read_tokens),
        count("cache_creation_input_tokens", before.cache_write_tokens),
    )
