"""The plain clients at a sidecar that hangs: stopped, unread, or behind a line that is dead."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mge_cache import (
    Answer,
    AsyncClient,
    Client,
    Miss,
    PromptRequest,
    RagDocument,
    RagQuery,
    Source,
    Timeouts,
)
from tests.e2e.tcp_proxy import TcpProxy
from tests.hanging import check_hang
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.e2e.sidecars import Launch

# A look-up's deadline is an hour: what ends sooner, ends because of the silence.
HOUR = Timeouts(
    get_s=3600.0,
    set_s=3600.0,
    slice_s=3600.0,
    slice_margin_s=3600.0,
    retry_s=0.05,
    silence_s=0.01,
    connect_s=0.2,
)
EMBEDDING = np.full(4, 0.5, "f4")
Either = AsyncClient | Client


def prompt(name: str) -> PromptRequest:
    return PromptRequest(model="a-model", prompt=name)


@pytest.fixture(params=["async", "sync"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def connect(
    stack: AsyncExitStack, kind: str, target: str, timeouts: Timeouts | None = None
) -> Either:
    if kind == "async":
        return await stack.enter_async_context(AsyncClient(target, timeouts=timeouts))
    return stack.enter_context(Client(target, timeouts=timeouts))


async def compute(client: Either, name: str) -> bool:
    """Ask by ``get_or_compute``; whether it was a hit."""

    async def answer() -> Answer:
        return Answer.from_text(name, cost_usd=0.1)

    if isinstance(client, AsyncClient):
        got = await client.get_or_compute(prompt(name), answer)
    else:
        computed = Answer.from_text(name, cost_usd=0.1)
        got = await asyncio.to_thread(client.get_or_compute, prompt(name), lambda: computed)
    assert got.text == name
    return got.source is not Source.COMPUTED


async def retrieve(client: Either, name: str) -> bool:
    """Ask by ``retrieve_or_compute``; whether it was a hit."""
    query = RagQuery(embedding_model="e", embedding=EMBEDDING, query=name, collection="c")
    found = [RagDocument(name, name.encode(), score=1.0)]
    options: dict[str, Any] = {"top_k": 1, "allow_similar": False}

    async def search() -> list[RagDocument]:
        return found

    if isinstance(client, AsyncClient):
        got = await client.retrieve_or_compute(query, search, **options)
    else:
        got = await asyncio.to_thread(client.retrieve_or_compute, query, lambda: found, **options)
    assert [each.id for each in got.documents] == [name]
    return got.hit is not None


@pytest.mark.parametrize("how", [compute, retrieve])
async def test_stopped_and_continued(
    launch: Launch, stack: AsyncExitStack, kind: str, how: Any
) -> None:
    sidecar = await launch()
    client = await connect(stack, kind, sidecar.target)
    await check_hang(sidecar, lambda name: how(client, name))


@pytest.mark.parametrize("how", [compute, retrieve])
async def test_silence_ends_calls_whatever_their_deadline(
    launch: Launch, stack: AsyncExitStack, kind: str, how: Any
) -> None:
    sidecar = await launch()
    client = await connect(stack, kind, sidecar.target, HOUR)
    async with asyncio.timeout(60):
        await check_hang(sidecar, lambda name: how(client, name))


async def test_a_client_that_is_made_while_it_hangs(
    launch: Launch, stack: AsyncExitStack, kind: str
) -> None:
    sidecar = await launch()
    sidecar.send(signal.SIGSTOP)
    client = await connect(stack, kind, sidecar.target, HOUR)
    async with asyncio.timeout(60):
        assert not await compute(client, "a")
        sidecar.send(signal.SIGCONT)
        await eventually(lambda: compute(client, "a"), within_s=30)


async def test_a_socket_that_nobody_reads(stack: AsyncExitStack, kind: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        listener.listen()
        client = await connect(stack, kind, f"unix:{tmp_path}/s", HOUR)
        async with asyncio.timeout(60):
            for number in range(5):
                assert not await compute(client, f"{number}")
        assert client.failures == 10


async def test_a_line_that_is_dead(launch: Launch, stack: AsyncExitStack, kind: str) -> None:
    sidecar = await launch(tcp=True)
    proxy = await stack.enter_async_context(TcpProxy(int(sidecar.targets[1].rpartition(":")[2])))
    client = await connect(stack, kind, f"127.0.0.1:{proxy.port}", HOUR)
    async with asyncio.timeout(60):
        await eventually(lambda: compute(client, "a"), within_s=30)
        proxy.hang()
        for number in range(5):
            assert not await compute(client, f"{number}")
        proxy.forward_new_connections()
        proxy.reset_connections()
        await eventually(lambda: compute(client, "a"), within_s=30)


async def test_who_waits_for_somebody_else_hears_of_it(
    launch: Launch, stack: AsyncExitStack, kind: str
) -> None:
    sidecar = await launch()
    # How soon waiting callers are told follows the deadline of a look-up, and not their own. A
    # sidecar that has just started stands still for moments, as it loads what it does not need yet.
    timeouts = Timeouts(
        silence_s=0.1, connect_s=0.1, slice_s=3600.0, slice_margin_s=3600.0, retry_s=3600.0
    )
    client = await connect(stack, kind, sidecar.target, timeouts)
    other = await stack.enter_async_context(
        AsyncClient(sidecar.target, timeouts=Timeouts(get_s=20.0))
    )
    miss = await other.get(prompt("awaited"), lease=True)
    assert isinstance(miss, Miss)
    assert miss.lease
    waiting = asyncio.create_task(compute(client, "awaited"))
    for _ in range(3):
        await other.stats()
    sidecar.send(signal.SIGSTOP)
    async with asyncio.timeout(60):
        assert not await waiting
    sidecar.send(signal.SIGCONT)


async def test_it_stops_while_the_answer_is_computed(
    launch: Launch, stack: AsyncExitStack, kind: str
) -> None:
    sidecar = await launch()
    client = await connect(stack, kind, sidecar.target, HOUR)
    await eventually(lambda: compute(client, "warm"))
    failures = client.failures

    def stop() -> Answer:
        sidecar.send(signal.SIGSTOP)
        return Answer.from_text("late", cost_usd=0.1)

    async def stop_async() -> Answer:
        return stop()

    async with asyncio.timeout(60):
        if isinstance(client, AsyncClient):
            await client.get_or_compute(prompt("late"), stop_async)
        else:
            await asyncio.to_thread(client.get_or_compute, prompt("late"), stop)
        assert client.failures > failures
        sidecar.send(signal.SIGCONT)
        # The caller did not wait, but the answer was on its way, and is there all the same.
        await eventually(lambda: compute(client, "late"), within_s=30)


def grpcs_threads() -> set[str]:
    """Return what runs in this process to read answers for threads."""
    usual = ("MainThread", "asyncio_")
    names = (thread.name for thread in threading.enumerate())
    return {name for name in names if not name.startswith(usual)}


async def test_closing_does_not_wait_for_an_answer(
    launch: Launch, stack: AsyncExitStack, kind: str
) -> None:
    sidecar = await launch()
    timeouts = Timeouts(get_s=3600.0, silence_s=0.01, connect_s=0.2, retry_s=3600.0)
    before = grpcs_threads()
    client = await connect(stack, kind, sidecar.target, timeouts)
    await compute(client, "a")
    sidecar.send(signal.SIGSTOP)
    async with asyncio.timeout(60):
        await compute(client, "a")  # asks whether the sidecar is there, for an hour
        if isinstance(client, AsyncClient):
            tasks = asyncio.all_tasks()
            assert len(tasks) > 1
            await client.close()
            await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})
        else:
            assert grpcs_threads() - before
            client.close()
            await eventually(lambda: grpcs_threads() <= before)
    sidecar.send(signal.SIGCONT)


async def test_a_burst_is_no_silence(launch: Launch, stack: AsyncExitStack, kind: str) -> None:
    """Of many look-ups at once, the last are answered late; but something arrives all the time."""
    sidecar = await launch()
    # Not the default: a machine that stands still for longer than that would fail this test.
    client = await connect(stack, kind, sidecar.target, Timeouts(get_s=20.0, set_s=20.0))
    names = [f"{number}" for number in range(500)]
    if isinstance(client, AsyncClient):
        for _ in range(2):
            await asyncio.gather(*(compute(client, name) for name in names))
        assert client.failures == 0
        return

    def ask(name: str) -> None:
        client.get_or_compute(prompt(name), lambda: Answer.from_text(name, cost_usd=0.1))

    for _ in range(2):
        threads = [threading.Thread(target=ask, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
    assert client.failures == 0


async def test_a_blocked_loop_is_no_silence(launch: Launch, stack: AsyncExitStack) -> None:
    sidecar = await launch()
    client = await connect(stack, "async", sidecar.target)
    await eventually(lambda: compute(client, "a"))
    lost = 0
    for _ in range(20):
        failures = client.failures
        asking = asyncio.create_task(compute(client, "a"))
        for _ in range(2):
            await asyncio.sleep(0)
            time.sleep(0.06)  # noqa: ASYNC251 - what is tested
        await asking
        lost += client.failures > failures
    # The machine itself may stand still for a while; all would be lost if lateness were silence.
    assert lost < 10
