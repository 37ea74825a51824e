"""When Anthropic is left alone because it failed, and what shows that it is there again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from mge_cache_server.batch_counts import BatchCounts
from mge_cache_server.errors import AskError, RateLimitedError
from mge_cache_server.metrics_batcher import BatchHistograms
from mge_cache_server.upstream import Upstream, UpstreamPolicy
from tests.rpc.talk import MODEL
from tests.unit.scene import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.rpc.scripted_upstream import Call, ScriptedUpstream

BODY = {"model": MODEL, "max_tokens": 10}
HELLO: list[dict[str, str]] = [{"role": "user", "content": "hello"}]
RETRY_S = 5.0


class Asking:
    """An ``Upstream`` with a clock that the test moves."""

    def __init__(self, server: ScriptedUpstream) -> None:
        self.clock = Clock()
        self._server = server
        policy = UpstreamPolicy("", "sk-secret", server.url, silence_s=30.0, calls_max=2)
        counts = BatchCounts(BatchHistograms())
        self.upstream = Upstream(policy, counts, now=self.clock)

    async def ask(self, answer: Callable[[Call], object]) -> list[Any]:
        """Ask, and have the call answered."""
        asking = asyncio.ensure_future(self._events())
        answer(await self._server.call())
        return await asking

    async def _events(self) -> list[Any]:
        return [event async for event in self.upstream.stream(BODY, HELLO)]


@pytest.fixture
async def down(upstream: ScriptedUpstream) -> AsyncIterator[Asking]:
    """Anthropic has failed three times in a row, and its time to be asked again has come."""
    asking = Asking(upstream)
    for _ in range(3):
        with pytest.raises(AskError):
            await asking.ask(break_off)
    assert asking.upstream.breaker_open
    asking.clock.advance(RETRY_S)
    yield asking
    await asking.upstream.close()


def break_off(call: Call) -> None:
    call.begin()
    call.cut()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (429, "rate_limit_error"),
        (529, "overloaded_error"),
    ],
)
async def test_a_refusal_shows_that_it_is_there(down: Asking, status: int, kind: str) -> None:
    with pytest.raises(AskError, match=kind):
        await down.ask(lambda call: call.refuse(status, kind, x_should_retry="false"))
    assert not down.upstream.breaker_open
    assert await down.ask(lambda call: call.answer("yes"))


async def test_a_failure_of_its_own_does_not(down: Asking) -> None:
    with pytest.raises(AskError, match="api_error"):
        await down.ask(lambda call: call.refuse(500, "api_error", x_should_retry="false"))
    assert down.upstream.breaker_open


async def test_an_overload_amid_an_answer_shows_it_too(down: Asking) -> None:
    def fail(call: Call) -> None:
        call.begin()
        call.fail_amid("overloaded_error")

    with pytest.raises(AskError, match="overloaded_error"):
        await down.ask(fail)
    assert not down.upstream.breaker_open


@pytest.mark.parametrize("retry_after", ["31", "Fri, 01 Jan 2100 00:00:00 GMT"])
async def test_a_call_does_not_wait_longer_than_anthropic_may_be_silent(
    upstream: ScriptedUpstream, retry_after: str
) -> None:
    asking = Asking(upstream)
    with pytest.raises(RateLimitedError) as caught:
        await asking.ask(lambda call: call.refuse(429, "rate_limit_error", retry_after=retry_after))
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s > 30.0
    assert asking.upstream.limiter.in_flight == 0
    assert asking.upstream.limiter.pause_s > 30.0
    await asking.upstream.close()
