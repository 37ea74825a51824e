"""Equal calls at the same time cost one; a stream passes as it comes; who gives up hands over."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mge_cache import AsyncClient
from tests.anthropic.clients import ask, call
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.anthropic.clients import Clients
    from tests.anthropic.upstream import Upstream

CALLERS = 8
KINDS = pytest.mark.parametrize("kind", ["async", "sync"])


@KINDS
@pytest.mark.parametrize("method", ["via_create", "via_create_stream"])
async def test_equal_calls_cost_one(
    clients: Clients, upstream: Upstream, method: str, kind: str
) -> None:
    middleware = clients.middleware()
    client = clients.either(kind, middleware)
    asking = [asyncio.create_task(call(client, method, ask("gated"))) for _ in range(CALLERS)]
    await eventually(lambda: upstream.calls == 1)
    upstream.open_gate()

    answers = await asyncio.gather(*asking)

    assert all(answer == answers[0] for answer in answers)
    assert upstream.calls == 1
    assert middleware.counts == {"miss": 1, "hit": CALLERS - 1}


async def test_equal_calls_of_tasks_threads_and_processes_cost_one(
    clients: Clients, upstream: Upstream, target: str
) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("caller.py")),
            upstream.base_url,
            target,
            "gated",
            stdout=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": ":".join(sys.path)},
        )
        for _ in range(2)
    ]
    asking: list[Any] = [
        asyncio.create_task(call(clients.either(kind, clients.middleware()), method, ask("gated")))
        for kind in ("async", "sync")
        for method in ("via_create", "via_create_stream")
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"asking\n"
    await eventually(lambda: upstream.calls == 1)
    upstream.open_gate()
    await asyncio.gather(*asking)
    said = [(await process.communicate())[0].decode() for process in processes]

    assert upstream.calls == 1
    assert {line.split()[0] for line in said} <= {"hit;", "miss"}
    assert all("end_turn" in line for line in said)


@KINDS
async def test_a_streamed_miss_arrives_as_it_is_sent(
    clients: Clients, upstream: Upstream, kind: str
) -> None:
    client = clients.either(kind, clients.middleware())
    first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    async def read(client: Any) -> None:
        async with client.messages.stream(**ask("gated")) as stream:
            async for text in stream.text_stream:
                if not first.done():
                    first.set_result(text)

    def read_in_thread(client: Any) -> None:
        with client.messages.stream(**ask("gated")) as stream:
            for number, text in enumerate(stream.text_stream):
                if number == 0:
                    loop.call_soon_threadsafe(first.set_result, text)

    if kind == "async":
        reading = asyncio.create_task(read(client))
    else:
        reading = asyncio.create_task(asyncio.to_thread(read_in_thread, client))
    try:
        # The server sends no more before the gate is opened.
        assert await asyncio.wait_for(first, 20.0) == "You sai"
        assert not reading.done()
    finally:
        upstream.open_gate()
    await reading


@KINDS
async def test_whoever_leaves_a_stream_hands_over(
    clients: Clients, upstream: Upstream, kind: str
) -> None:
    client = clients.either(kind, clients.middleware(wait_s=100.0))
    other = clients.asynchronous(clients.middleware(wait_s=100.0))

    def leave_in_thread(client: Any) -> Any:
        stream = client.messages.create(**ask("gated"), stream=True)
        next(stream)
        return stream

    if kind == "async":
        leading: Any = await client.messages.create(**ask("gated"), stream=True)
        await anext(leading)
    else:
        leading = await asyncio.to_thread(leave_in_thread, client)
    following = asyncio.create_task(other.messages.create(**ask("gated"), stream=True))
    await asyncio.sleep(0)
    assert upstream.calls == 1

    if kind == "async":
        await leading.close()
    else:
        await asyncio.to_thread(leading.close)
    stream = await asyncio.wait_for(following, 30.0)
    await eventually(lambda: upstream.calls == 2)
    upstream.open_gate()

    assert [event.type async for event in stream][-1] == "message_stop"


async def test_a_cancelled_leader_hands_over(clients: Clients, upstream: Upstream) -> None:
    client = clients.asynchronous(clients.middleware(wait_s=100.0))
    leading = asyncio.create_task(client.messages.create(**ask("gated")))
    await eventually(lambda: upstream.calls == 1)
    following = asyncio.create_task(client.messages.create(**ask("gated")))

    leading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leading
    await eventually(lambda: upstream.calls == 2)
    upstream.open_gate()

    assert (await following).stop_reason == "end_turn"


async def test_a_cancelled_follower_harms_nobody(clients: Clients, upstream: Upstream) -> None:
    client = clients.asynchronous(clients.middleware())
    leading = asyncio.create_task(client.messages.create(**ask("gated")))
    await eventually(lambda: upstream.calls == 1)
    following = [asyncio.create_task(client.messages.create(**ask("gated"))) for _ in range(2)]
    await asyncio.sleep(0)

    following[0].cancel()
    upstream.open_gate()

    assert (await following[1]).id == (await leading).id
    assert upstream.calls == 1


async def test_nobody_waits_longer_than_its_own_time_out(
    clients: Clients, upstream: Upstream
) -> None:
    client = clients.asynchronous(clients.middleware(wait_s=100.0))
    leading = asyncio.create_task(client.messages.create(**ask("gated")))
    await eventually(lambda: upstream.calls == 1)

    following = asyncio.create_task(client.messages.create(**ask("gated"), timeout=0.2))
    await eventually(lambda: upstream.calls == 2)  # it does not wait for the leader any more
    following.cancel()
    upstream.open_gate()

    await leading
    await asyncio.gather(following, return_exceptions=True)


async def test_an_invalidation_ends_hits(clients: Clients, upstream: Upstream, target: str) -> None:
    client = clients.asynchronous(clients.middleware(masterplan="plan", tags=["tag"]))
    await client.messages.create(**ask("text"))
    await client.messages.create(**ask("text"))
    assert upstream.calls == 1

    async with AsyncClient(target) as cache:
        await cache.invalidate(masterplan="plan")
        await client.messages.create(**ask("text"))
        assert upstream.calls == 2
        await cache.invalidate(tag="tag")
        await client.messages.create(**ask("text"))
        assert upstream.calls == 3
        assert (await cache.stats()).layers[0].total_hits >= 1


async def test_what_a_hit_saves_is_counted(clients: Clients, target: str) -> None:
    client = clients.asynchronous(clients.middleware())
    for _ in range(3):
        await call(client, "via_stream", ask("thinking"))
    async with AsyncClient(target) as cache:
        [llm, *_] = (await cache.stats()).layers
    assert (llm.total_hits, llm.total_misses, llm.total_writes) == (2, 1, 1)
    assert llm.saved_usd == pytest.approx(2 * llm.spent_usd)
    assert llm.spent_usd > 0
