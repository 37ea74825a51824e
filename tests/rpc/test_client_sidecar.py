"""Both clients against the sidecar itself, on its in-memory store."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mge_cache import (
    Answer,
    AsyncClient,
    Client,
    Hit,
    InvalidRequestError,
    Miss,
    PromptKey,
    PromptRequest,
    SetStatus,
    Source,
    Timeouts,
    Usage,
)
from mge_cache_server import app
from mge_cache_server.config import Settings
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

REQUEST = PromptRequest(
    model="claude-opus-4-8",
    prompt="Why is the sky blue?",
    temperature=0,
    parameters={"system": "Be brief.", "max_tokens": 100},
    namespace="space",
)
ANSWER = Answer.from_text("Rayleigh.", usage=Usage(input_tokens=7), cost_usd=0.25)
PATIENT = Timeouts(get_s=20.0, set_s=20.0, slice_margin_s=20.0)


@pytest.fixture
async def targets(tmp_path: Path) -> AsyncIterator[tuple[str, ...]]:
    settings = replace(
        Settings(),
        redis_url="memory://",
        unix_socket=f"{tmp_path}/s",
        listen="127.0.0.1:0",
        http_listen="",
        drain_s=1.0,
    )
    sidecar = app.build(settings)
    await sidecar.start()
    yield sidecar.targets
    await sidecar.stop()


@pytest.fixture(params=["unix", "tcp"])
async def client(
    targets: tuple[str, ...], request: pytest.FixtureRequest
) -> AsyncIterator[AsyncClient]:
    target = targets[0 if request.param == "unix" else 1]
    async with AsyncClient(target, timeouts=PATIENT) as client:
        yield client


async def compute() -> Answer:
    return ANSWER


async def fail() -> Answer:
    raise LookupError


async def test_compute_once_then_hit(client: AsyncClient) -> None:
    computed = await client.get_or_compute(REQUEST, compute, masterplan="m")
    hit = await client.get_or_compute(REQUEST, fail)
    assert computed.source is Source.COMPUTED
    assert hit.source in (Source.L1, Source.STORE)
    assert (hit.body, hit.content_type, hit.usage) == (
        ANSWER.body,
        ANSWER.content_type,
        ANSWER.usage,
    )
    assert hit.cost_saved_usd == 0.25
    await client.invalidate(namespace="space", masterplan="m")
    with pytest.raises(LookupError):
        await client.get_or_compute(REQUEST, fail)
    assert client.failures == 0


async def test_the_sidecar_computes_the_same_key(
    client: AsyncClient, targets: tuple[str, ...]
) -> None:
    await client.set(REQUEST, ANSWER)
    async with AsyncClient(targets[0], timeouts=PATIENT, send_prompt=True) as talkative:
        hit = await talkative.get(REQUEST)
        assert isinstance(hit, Hit)
        other = replace(REQUEST, temperature=None)
        assert await talkative.get(other) == Miss()
        await talkative.set(other, "other")
    assert isinstance(await client.get(PromptKey(key=other.key, namespace="space")), Hit)


async def test_one_of_many_computes(client: AsyncClient) -> None:
    calls = 0

    async def count() -> str:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return "answer"

    answers = await asyncio.gather(*(client.get_or_compute(REQUEST, count) for _ in range(300)))
    assert calls == 1
    assert {answer.text for answer in answers} == {"answer"}
    stats = (await client.stats(namespace="space")).layers[0]
    assert (stats.total_misses, stats.total_hits, stats.total_writes) == (1, 299, 1)


async def test_cancelled_and_failed_leaders_hand_over_at_once(client: AsyncClient) -> None:
    started = asyncio.Event()

    async def stuck() -> str:
        started.set()
        await asyncio.Event().wait()
        return "never"

    leader = asyncio.create_task(client.get_or_compute(REQUEST, stuck))
    await started.wait()
    failing = asyncio.create_task(client.get_or_compute(REQUEST, fail))
    succeeding = asyncio.create_task(client.get_or_compute(REQUEST, compute))
    leader.cancel()
    # Less than the lease lasts (3 s), were it not handed over.
    async with asyncio.timeout(2.5):
        with pytest.raises(asyncio.CancelledError):
            await leader
        outcomes = await asyncio.gather(failing, succeeding, return_exceptions=True)
    assert isinstance(outcomes[1], Answer)
    # Whether the failing one had its turn depends on who was first in the queue.
    assert isinstance(outcomes[0], Answer | LookupError)


async def test_a_lease_is_held_for_longer_than_it_lasts(targets: tuple[str, ...]) -> None:
    brief = replace(PATIENT, lease_ttl_s=1.0)
    async with AsyncClient(targets[0], timeouts=brief) as client:
        go = asyncio.Event()
        started = asyncio.Event()

        async def slow() -> str:
            started.set()
            await go.wait()
            return "slow"

        leader = asyncio.create_task(client.get_or_compute(REQUEST, slow))
        await started.wait()
        # Waits for longer than the lease lasts, and is not handed it.
        found = await client.get(REQUEST, lease=True, wait_s=2.5)
        assert found == Miss(in_progress=True)
        go.set()
        assert (await leader).text == "slow"


async def test_invalid_requests_name_the_field(client: AsyncClient) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await client.set(REQUEST, ANSWER, tags=[f"tag{number}" for number in range(65)])
    assert "tags" in caught.value.field
    with pytest.raises(InvalidRequestError) as caught:
        await client.get(replace(REQUEST, namespace="no spaces"))
    assert "namespace" in caught.value.field
    answer = await client.get_or_compute(REQUEST, compute, tags=["t" * 257])
    assert answer == ANSWER  # fails open
    assert client.failures == 1


async def test_set_with_the_lease_after_an_invalidation_is_overtaken(client: AsyncClient) -> None:
    miss = await client.get(REQUEST, lease=True)
    assert isinstance(miss, Miss)
    assert miss.lease is not None
    await client.invalidate(namespace="space", everything=True)
    result = await client.set(REQUEST, ANSWER, lease=miss.lease)
    assert result.status is SetStatus.OVERTAKEN
    assert isinstance(await client.get(REQUEST), Miss)


@pytest.mark.parametrize(
    ("size_bytes", "told"),
    [
        (17 << 20, "answer: at most 8388608 bytes"),
        (29 << 20, r"the message \(30,\d{3},\d{3} bytes\) is larger than the sidecar takes \(29,"),
    ],
)
async def test_what_is_too_large_is_named_with_its_limit(
    client: AsyncClient, targets: tuple[str, ...], size_bytes: int, told: str
) -> None:
    large = Answer(bytes(size_bytes))
    with pytest.raises(InvalidRequestError, match=told):
        await client.set(REQUEST, large)

    def work() -> None:
        with (
            Client(targets[1], timeouts=PATIENT) as threaded,
            pytest.raises(InvalidRequestError, match=told),
        ):
            threaded.set(REQUEST, large)

    await asyncio.to_thread(work)
    assert (await client.set(REQUEST, ANSWER)).status is SetStatus.STORED


async def test_an_answer_of_more_than_16_mib_comes_back(tmp_path: Path) -> None:
    settings = replace(
        Settings(),
        redis_url="memory://",
        unix_socket=f"{tmp_path}/s",
        listen="",
        http_listen="",
        answer_max_bytes=32 << 20,
        drain_s=1.0,
    )
    sidecar = app.build(settings)
    await sidecar.start()
    async with AsyncClient(f"unix:{tmp_path}/s", timeouts=PATIENT) as client:
        await client.set(REQUEST, Answer(bytes(20 << 20)))
        hit = await client.get(REQUEST)
    await sidecar.stop()
    assert isinstance(hit, Hit)
    assert len(hit.answer.body) == 20 << 20


async def test_threads(targets: tuple[str, ...]) -> None:
    def work() -> None:
        with Client(targets[1], timeouts=PATIENT) as client:
            assert client.get_or_compute(REQUEST, lambda: ANSWER) == ANSWER
            assert client.get_or_compute(REQUEST, lambda: "unused").body == ANSWER.body
            stats = client.stats()
            assert stats.store.kind == "memory"
            assert stats.layers[0].saved_usd == 0.25

    await asyncio.to_thread(work)


async def test_sidecar_that_stops_and_one_that_starts_in_its_place(tmp_path: Path) -> None:
    settings = replace(
        Settings(),
        redis_url="memory://",
        unix_socket=f"{tmp_path}/s",
        listen="",
        http_listen="",
        drain_s=0.1,
    )
    async with AsyncClient(f"unix:{tmp_path}/s", timeouts=replace(PATIENT, retry_s=0.05)) as client:
        for _ in range(2):
            sidecar = app.build(settings)
            await sidecar.start()

            async def reached() -> bool:
                failures = client.failures
                assert await client.get_or_compute(REQUEST, compute) is not None
                return client.failures == failures

            await eventually(reached, within_s=10)
            await sidecar.stop()
            assert await client.get_or_compute(REQUEST, compute) == ANSWER
