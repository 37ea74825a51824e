"""Deferred batches outlive the sidecar that sent them: processes, SIGKILL, a real Valkey."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.scripted_upstream import scripted_upstream
from tests.rpc.talk import Talk, identity
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.e2e.sidecars import Launch, Sidecar
    from tests.rpc.scripted_upstream import ScriptedUpstream
    from tests.servers.fixtures import Servers

    Start = Callable[[], Awaitable[Sidecar]]

PATIENCE_S = 60.0
"""A claim that nobody prolongs lasts 5 s at this poll interval; the machine may be busy."""


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream() as server:
        yield server


@pytest.fixture
def start(launch: Launch, servers: Servers, key_prefix: str, upstream: ScriptedUpstream) -> Start:
    options = (
        *("--key-prefix", key_prefix),
        *("--store-timeout", "10s"),
        *("--deferred-window", "0s"),
        *("--deferred-poll", "100ms"),
        *("--anthropic-base-url", upstream.url),
    )
    environment = {"ANTHROPIC_API_KEY": "sk-secret"}

    async def launched() -> Sidecar:
        return await launch(servers.url("valkey9"), options=options, environment=environment)

    return launched


async def defer(sidecar: Sidecar, request_id: str, prompt: str) -> Talk:
    talk = Talk(sidecar.stub)
    await talk.start(request_id, prompt, strategy=pb.STRATEGY_DEFERRED, masterplan="plan-1")
    return talk


async def fetched(sidecar: Sidecar, request_id: str) -> pb.GenerateResponse:
    talk = Talk(sidecar.stub)
    fetch = pb.GenerateFetch(id=request_id)
    fetch.timeout.seconds = round(PATIENCE_S)
    await talk.send(pb.GenerateRequest(fetch=fetch))
    return await talk.reply()


async def test_a_new_sidecar_delivers_what_a_killed_one_asked(
    start: Start, upstream: ScriptedUpstream
) -> None:
    first = await start()
    await defer(first, "a", "x")
    batch = await upstream.batches.next()
    await eventually(lambda: batch.polls, within_s=PATIENCE_S)
    first.kill()

    second = await start()
    # Whoever asks the same waits for the batch, and does not pay again.
    again = await defer(second, "b", "x")
    batch.answer(x="survived")
    assert (await fetched(second, "a")).completion.text == "survived"
    assert (await again.end("b")).text == "survived"
    assert len(upstream.batches.sent) == 1


async def test_a_sidecar_that_runs_takes_over(start: Start, upstream: ScriptedUpstream) -> None:
    first, second = await start(), await start()
    await defer(first, "a", "x")
    batch = await upstream.batches.next()
    await eventually(lambda: batch.polls, within_s=PATIENCE_S)
    waiting = await defer(second, "b", "x")
    first.kill()
    batch.answer(x="survived")
    assert (await waiting.end("b")).text == "survived"
    assert (await fetched(second, "a")).completion.text == "survived"
    assert len(upstream.batches.sent) == 1


async def test_an_invalidation_wins_over_a_restart(
    start: Start, upstream: ScriptedUpstream
) -> None:
    first = await start()
    await defer(first, "a", "x")
    batch = await upstream.batches.next()
    await eventually(lambda: batch.polls, within_s=PATIENCE_S)
    await first.stub.Invalidate(pb.InvalidateRequest(masterplan="plan-1"))
    first.kill()
    batch.answer(x="stale")
    second = await start()
    reply = await fetched(second, "a")
    assert reply.error.code == 5, reply
    peek = pb.GetPromptRequest(identity=identity("x"), peek=True)
    assert (await second.stub.GetPrompt(peek)).WhichOneof("outcome") == "miss"


async def test_a_sidecar_that_died_while_it_sent(start: Start, upstream: ScriptedUpstream) -> None:
    """Anthropic has the batch, and nobody has its id: it is found by what is in its results."""
    first = await start()
    upstream.batches.gate.clear()
    await defer(first, "a", "x")
    batch = await upstream.batches.next()
    first.kill()
    upstream.batches.gate.set()
    second = await start()
    batch.answer(x="found")
    assert (await fetched(second, "a")).completion.text == "found"
    assert len(upstream.batches.sent) == 1


async def test_a_sidecar_that_died_before_it_sent(start: Start, upstream: ScriptedUpstream) -> None:
    """Anthropic never had the batch: it is said so, and asking again asks."""
    first = await start()
    upstream.batches.gate.clear()
    await defer(first, "a", "x")
    await upstream.batches.next()
    first.kill()
    upstream.batches.sent.clear()
    upstream.batches.gate.set()
    second = await start()
    reply = await fetched(second, "a")
    assert (reply.error.code, "ask again" in reply.error.message) == (14, True), reply
    again = await defer(second, "b", "x")
    (await upstream.batches.next()).answer(x="asked again")
    assert (await again.end("b")).text == "asked again"
