"""The asyncio client against a sidecar of which every behaviour can be had."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from mge_cache import (
    Answer,
    AsyncClient,
    ClientClosedError,
    DeadlineExceededError,
    Hit,
    InternalError,
    InvalidRequestError,
    Miss,
    PromptKey,
    PromptRequest,
    RefusedError,
    SetStatus,
    Source,
    Timeouts,
    UnavailableError,
    Usage,
)
from tests.rpc.sidecar_double import TICK, SidecarDouble
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

REQUEST = PromptRequest(
    model="a-model", prompt="Why is the sky blue?", parameters={"system": "Be brief."}
)
ANSWER = Answer.from_text(
    "Rayleigh scattering.", usage=Usage(input_tokens=7, output_tokens=3), cost_usd=0.25
)
# Far from any time that a busy machine takes, so that only what is tested ends a call.
PATIENT = Timeouts(get_s=20.0, set_s=20.0, slice_margin_s=20.0)


class Computation:
    """Counts its calls; waits for ``go`` where it is told to."""

    def __init__(self, answer: Answer | str | bytes = ANSWER, *, waits: bool = False) -> None:
        self.calls = 0
        self.go = asyncio.Event()
        self._answer = answer
        if not waits:
            self.go.set()

    async def __call__(self) -> Answer | str | bytes:
        self.calls += 1
        await self.go.wait()
        return self._answer


class ComputeError(Exception):
    """What a provider's SDK might raise."""


async def fail() -> str:
    raise ComputeError


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/s"


@pytest.fixture
async def double() -> AsyncIterator[SidecarDouble]:
    sidecar = SidecarDouble()
    yield sidecar
    await sidecar.stop()


@pytest.fixture
async def client(double: SidecarDouble, address: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(await double.start(address), timeouts=PATIENT) as client:
        yield client


def nobody(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/nobody"


async def test_miss_computes_and_stores_then_hit(
    double: SidecarDouble, client: AsyncClient
) -> None:
    compute = Computation()
    computed = await client.get_or_compute(
        REQUEST, compute, ttl_s=90.5, masterplan="plan", tags=("a", "b")
    )
    hit = await client.get_or_compute(REQUEST, compute)

    assert compute.calls == 1
    assert computed == ANSWER
    assert computed.source is Source.COMPUTED
    assert hit == replace(ANSWER, cost_usd=None, source=Source.L1, cost_saved_usd=0.25)
    assert hit.text == "Rayleigh scattering."
    (stored,) = double.sets
    assert (stored.ttl.seconds, stored.ttl.nanos) == (90, 500_000_000)
    assert (stored.masterplan, list(stored.tags)) == ("plan", ["a", "b"])
    assert stored.lease == b"lease-1"
    assert stored.HasField("compute_time")
    assert stored.identity.model == "a-model"
    assert client.failures == 0


async def test_no_prompt_on_the_wire(double: SidecarDouble, client: AsyncClient) -> None:
    await client.get_or_compute(REQUEST, Computation())
    messages = [*double.gets, *double.sets, *double.holds]

    assert len(messages) == 3
    for message in messages:
        sent = message.SerializeToString()
        assert b"sky" not in sent
        assert b"brief" not in sent
    assert double.gets[0].identity.key == REQUEST.key
    assert double.gets[0].identity.namespace == "default"
    assert not double.gets[0].HasField("wait")
    assert double.gets[0].lease_ttl.seconds == 3


async def test_send_prompt_sends_the_whole_identity(double: SidecarDouble) -> None:
    target = await double.start("127.0.0.1:0")
    async with AsyncClient(target, timeouts=PATIENT, send_prompt=True) as client:
        request = PromptRequest(model="m", prompt="p", temperature=0, parameters={"x": [1.0]})
        await client.get(request)

    (sent,) = (get.identity for get in double.gets)
    assert (sent.model, sent.prompt, sent.key) == ("m", "p", b"")
    assert sent.HasField("temperature")
    assert dict(sent.parameters) == {"x": "[1]"}


async def test_what_compute_raises_is_raised_and_hands_over(
    double: SidecarDouble, client: AsyncClient
) -> None:
    with pytest.raises(ComputeError):
        await client.get_or_compute(REQUEST, fail)

    await eventually(lambda: double.holds and not double.leases and not double.open_holds)
    assert not double.sets


async def test_wrong_type_of_answer_hands_over(double: SidecarDouble, client: AsyncClient) -> None:
    async def compute() -> str:
        return None  # type: ignore[return-value]

    with pytest.raises(TypeError, match="NoneType"):
        await client.get_or_compute(REQUEST, compute)
    await eventually(lambda: not double.leases)


async def test_cancelled_leader_hands_over_to_a_follower(
    double: SidecarDouble, client: AsyncClient
) -> None:
    slow, quick = Computation(waits=True), Computation("second")
    leader = asyncio.create_task(client.get_or_compute(REQUEST, slow))
    await eventually(lambda: slow.calls and double.open_holds)
    follower = asyncio.create_task(client.get_or_compute(REQUEST, quick))
    await eventually(lambda: double.waiting)

    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    assert (await follower).text == "second"
    assert [stored.lease for stored in double.sets] == [b"lease-2"]


async def test_follower_gets_the_leaders_answer(double: SidecarDouble, client: AsyncClient) -> None:
    slow, unused = Computation(waits=True), Computation()
    leader = asyncio.create_task(client.get_or_compute(REQUEST, slow))
    await eventually(lambda: slow.calls)
    follower = asyncio.create_task(client.get_or_compute(REQUEST, unused))
    await eventually(lambda: double.waiting)

    slow.go.set()
    assert (await follower).source is Source.FLIGHT
    assert (await leader).source is Source.COMPUTED
    assert unused.calls == 0


async def test_cancelled_follower_disturbs_nobody(
    double: SidecarDouble, client: AsyncClient
) -> None:
    slow = Computation(waits=True)
    leader = asyncio.create_task(client.get_or_compute(REQUEST, slow))
    await eventually(lambda: slow.calls)
    follower = asyncio.create_task(client.get_or_compute(REQUEST, Computation()))
    await eventually(lambda: double.waiting)

    follower.cancel()
    with pytest.raises(asyncio.CancelledError):
        await follower
    slow.go.set()
    assert await leader == ANSWER
    assert len(double.sets) == 1


async def test_waits_in_slices_then_computes_without_a_lease(double: SidecarDouble) -> None:
    double.leases[REQUEST.key] = b"somebody's"
    target = await double.start("127.0.0.1:0")
    async with AsyncClient(target, timeouts=replace(PATIENT, slice_s=0.05)) as client:
        answer = await client.get_or_compute(REQUEST, Computation(), wait_s=0.2)

    assert answer.source is Source.COMPUTED
    waits = [get.wait.ToTimedelta().total_seconds() for get in double.gets]
    assert waits[0] == 0
    assert len(waits) >= 3
    assert all(wait <= 0.05 for wait in waits)
    assert [get.asks_again for get in double.gets] == [True] * (len(waits) - 1) + [False]
    assert double.sets[0].lease == b""
    assert not double.holds


async def test_wait_of_zero_computes_at_once(double: SidecarDouble, client: AsyncClient) -> None:
    double.leases[REQUEST.key] = b"somebody's"
    await client.get_or_compute(REQUEST, Computation(), wait_s=0)
    (get,) = double.gets
    assert not get.asks_again


async def test_a_computation_that_blocks_the_loop_is_held(tmp_path: Path) -> None:
    """The hold must be on its way before ``compute`` runs: it may block the loop for long."""
    target = f"unix:{tmp_path}/s"
    listening, held = threading.Event(), threading.Event()

    async def serve() -> None:  # in a loop of its own, as that of the client will not turn
        sidecar = SidecarDouble()
        await sidecar.start(target)
        listening.set()
        await eventually(lambda: sidecar.open_holds)
        held.set()
        await eventually(lambda: sidecar.sets and not sidecar.open_holds)
        await sidecar.stop()

    async def compute() -> str:
        assert held.wait(timeout=10)
        return "answer"

    server = asyncio.create_task(asyncio.to_thread(asyncio.run, serve()))
    assert await asyncio.to_thread(listening.wait, 10)
    async with AsyncClient(target, timeouts=PATIENT) as client:
        await client.get_or_compute(REQUEST, compute)
    await server


async def test_degraded_miss_computes_and_sets(double: SidecarDouble, client: AsyncClient) -> None:
    double.degraded = True
    await client.get_or_compute(REQUEST, Computation())
    assert len(double.sets) == 1
    assert not double.holds
    assert client.failures == 0


async def test_absent_sidecar_costs_little_and_is_not_asked_again_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compute = Computation()
    calm = Timeouts(retry_s=3600.0)  # the breaker does not close during this test
    async with AsyncClient(nobody(tmp_path), timeouts=calm) as client:
        started = time.perf_counter()
        with caplog.at_level(logging.INFO, logger="mge_cache"):
            for _ in range(100):
                assert await client.get_or_compute(REQUEST, compute) == ANSWER
        # One look-up found out; with three attempts each, a hundred would take seconds.
        assert time.perf_counter() - started < 1.0
        assert client.failures == 200
    assert compute.calls == 100
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be reached" in caplog.text


async def test_silent_listener_costs_the_deadline(tmp_path: Path) -> None:
    """Connections are accepted by the kernel, and nobody is there: a stopped process."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        listener.listen()
        async with AsyncClient(f"unix:{tmp_path}/s") as client:
            started = time.perf_counter()
            assert await client.get_or_compute(REQUEST, Computation()) == ANSWER
            assert time.perf_counter() - started < 2.0
        assert client.failures == 2


async def test_hanging_sidecar_is_given_up_after_three_deadlines(double: SidecarDouble) -> None:
    target = await double.start("127.0.0.1:0")
    double.hangs.update(("GetPrompt", "SetPrompt"))
    async with AsyncClient(target, timeouts=Timeouts(retry_s=3600.0)) as client:
        for _ in range(20):
            assert await client.get_or_compute(REQUEST, Computation()) == ANSWER
        assert client.failures == 40
    # At most: on a busy machine a deadline can pass before the sidecar has seen the call.
    assert len(double.gets) + len(double.sets) <= 3


async def test_followers_notice_a_hanging_sidecar_together(double: SidecarDouble) -> None:
    double.leases[REQUEST.key] = b"somebody's"
    target = await double.start("127.0.0.1:0")
    timeouts = Timeouts(get_s=20.0, slice_s=0.2, slice_margin_s=0.3, retry_s=3600.0)
    compute = Computation()
    async with AsyncClient(target, timeouts=timeouts) as client:
        tasks = [asyncio.create_task(client.get_or_compute(REQUEST, compute)) for _ in range(50)]
        await eventually(lambda: double.waiting and len(double.gets) > 50)
        double.hangs.update(("GetPrompt", "SetPrompt"))
        # One of them waits for all; had each to find out by itself, it would take 15 s and more.
        async with asyncio.timeout(5):
            assert await asyncio.gather(*tasks) == [ANSWER] * 50
    assert compute.calls == 50


async def test_followers_of_one_client_do_not_all_wait_at_the_sidecar(
    double: SidecarDouble, client: AsyncClient
) -> None:
    slow, unused = Computation(waits=True), Computation()
    leader = asyncio.create_task(client.get_or_compute(REQUEST, slow))
    await eventually(lambda: slow.calls)
    followers = [asyncio.create_task(client.get_or_compute(REQUEST, unused)) for _ in range(20)]
    await eventually(lambda: double.waiting and len(double.gets) >= 1 + 20 + 1)
    assert double.waiting == 1
    impatient = await client.get_or_compute(REQUEST, Computation("mine"), wait_s=0.05)
    assert impatient.text == "mine"
    followers.pop(0).cancel()
    slow.go.set()
    await asyncio.gather(leader, *followers)
    assert unused.calls == 0
    assert not client._flights._turns._turns


async def test_restarted_sidecar_is_found_again(
    double: SidecarDouble, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"unix:{tmp_path}/s"
    await double.start(address)
    async with AsyncClient(address, timeouts=replace(PATIENT, retry_s=0.05)) as client:
        with caplog.at_level(logging.INFO, logger="mge_cache"):
            await client.get_or_compute(REQUEST, Computation())
            await double.stop()
            away = await client.get_or_compute(REQUEST, Computation("away"))
            await double.start(address)

            async def hit() -> bool:
                answer = await client.get_or_compute(REQUEST, Computation("away"))
                return answer.source is Source.L1

            await eventually(hit, within_s=10)
    assert away.text == "away"
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "cannot be reached" in messages[0]
    assert "is back" in messages[1]


async def test_sidecar_that_dies_during_the_computation(
    double: SidecarDouble, client: AsyncClient
) -> None:
    compute = Computation(waits=True)
    task = asyncio.create_task(client.get_or_compute(REQUEST, compute))
    await eventually(lambda: compute.calls and double.open_holds)
    await double.stop()
    compute.go.set()
    assert await task == ANSWER
    assert client.failures == 1


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INTERNAL, InternalError),
        (grpc.StatusCode.UNKNOWN, InternalError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, RefusedError),
        (grpc.StatusCode.FAILED_PRECONDITION, RefusedError),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError),
        (grpc.StatusCode.UNAVAILABLE, UnavailableError),
    ],
)
@pytest.mark.parametrize("method", ["GetPrompt", "SetPrompt"])
async def test_failures_fail_open_unless_asked_not_to(
    double: SidecarDouble, code: grpc.StatusCode, error: type[Exception], method: str
) -> None:
    double.fails[method] = (code, "tags: at most 64")
    target = await double.start("127.0.0.1:0")
    async with AsyncClient(target, timeouts=PATIENT) as client:
        assert await client.get_or_compute(REQUEST, Computation()) == ANSWER
        assert client.failures >= 1
    double.leases.clear()
    double.entries.clear()
    async with AsyncClient(target, timeouts=PATIENT, fail_open=False) as client:
        with pytest.raises(error):
            await client.get_or_compute(REQUEST, Computation())
    await eventually(lambda: not double.open_holds)


async def test_fail_open_false_raises_for_the_absent_and_the_hanging(
    double: SidecarDouble, tmp_path: Path
) -> None:
    async with AsyncClient(nobody(tmp_path), fail_open=False) as client:
        with pytest.raises(UnavailableError) as unavailable:
            await client.get_or_compute(REQUEST, Computation())
    assert unavailable.value.retryable
    double.hangs.add("GetPrompt")
    target = await double.start("127.0.0.1:0")
    async with AsyncClient(target, fail_open=False) as client:
        with pytest.raises(DeadlineExceededError):
            await client.get_or_compute(REQUEST, Computation())


async def test_unavailable_is_tried_again_and_other_statuses_are_not(
    double: SidecarDouble, client: AsyncClient
) -> None:
    double.fails["GetPrompt"] = (grpc.StatusCode.UNAVAILABLE, "")
    with pytest.raises(UnavailableError):
        await client.get(REQUEST)
    assert len(double.gets) == 3
    double.fails["GetPrompt"] = (grpc.StatusCode.INTERNAL, "")
    with pytest.raises(InternalError):
        await client.get(REQUEST)
    assert len(double.gets) == 4


async def test_invalid_argument_names_the_field(double: SidecarDouble, client: AsyncClient) -> None:
    double.fails["SetPrompt"] = (grpc.StatusCode.INVALID_ARGUMENT, "tags: at most 64, not 65")
    with pytest.raises(InvalidRequestError, match="at most 64") as caught:
        await client.set(REQUEST, "answer")
    assert caught.value.field == "tags"
    assert not caught.value.retryable


async def test_mistakes_show_before_anything_is_computed(client: AsyncClient) -> None:
    compute = Computation()
    with pytest.raises(InvalidRequestError, match="ttl_s"):
        await client.get_or_compute(REQUEST, compute, ttl_s=0)
    with pytest.raises(InvalidRequestError, match="tags"):
        await client.get_or_compute(REQUEST, compute, tags="not a list")
    with pytest.raises(InvalidRequestError, match="model"):
        await client.get_or_compute(PromptKey(key=b"k" * 32), compute)
    assert compute.calls == 0


async def test_get_hold_and_set_by_hand(double: SidecarDouble, client: AsyncClient) -> None:
    assert await client.get(REQUEST) == Miss()
    assert not double.leases
    miss = await client.get(REQUEST, lease=True, lease_ttl_s=5)
    assert isinstance(miss, Miss)
    assert miss.lease is not None
    assert miss.lease.ttl_s == 5
    async with client.hold(miss.lease):
        await eventually(lambda: double.open_holds)
        assert await client.get(REQUEST, lease=True) == Miss(in_progress=True)
        result = await client.set(REQUEST, b"bytes", lease=miss.lease, ttl_s=60, preloaded=True)
    assert (result.status, result.ttl_s) == (SetStatus.STORED, 60)
    assert double.sets[0].preloaded
    hit = await client.get(PromptKey(key=REQUEST.key))
    assert isinstance(hit, Hit)
    assert (hit.answer.body, hit.age_s, hit.remaining_ttl_s) == (b"bytes", 1.5, 60)
    assert hit.answer.usage is None


async def test_invalidate_and_stats(double: SidecarDouble, client: AsyncClient) -> None:
    calls: list[Callable[[], Awaitable[int]]] = [
        lambda: client.invalidate(key=REQUEST.key),
        lambda: client.invalidate(masterplan="m"),
        lambda: client.invalidate(tag="t"),
        lambda: client.invalidate(model="x"),
        lambda: client.invalidate(everything=True, namespace="n"),
    ]
    for call in calls:
        assert await call() == TICK
    named = [message.WhichOneof("target") for message in double.invalidations]
    assert named == ["key", "masterplan", "tag", "model", "everything"]
    for arguments in ({}, {"tag": "t", "model": "m"}):
        with pytest.raises(InvalidRequestError, match="exactly one"):
            await client.invalidate(**arguments)  # type: ignore[arg-type]

    stats = await client.stats(namespace="n")
    assert stats.layers[0].errors_by_operation == {"lookup": 2}
    assert (stats.layers[0].total_hits, stats.l1.size_bytes) == (3, 5)
    assert stats.unpriced_models == ("n",)


async def test_a_store_that_is_down_does_not_make_the_sidecar_unreachable(
    double: SidecarDouble, client: AsyncClient
) -> None:
    double.fails["Invalidate"] = (grpc.StatusCode.UNAVAILABLE, "the store")
    with pytest.raises(UnavailableError, match="the store"):
        await client.invalidate(everything=True)
    await client.get_or_compute(REQUEST, Computation())
    assert len(double.sets) == 1


async def test_the_raw_stub_is_reachable(client: AsyncClient) -> None:
    from mge_cache.v1 import cache_service_pb2 as pb

    response = await client.stub.Stats(pb.StatsRequest(namespace="raw"))
    assert list(response.unpriced_models) == ["raw"]


async def test_closing_ends_calls_and_is_not_a_cancellation(
    double: SidecarDouble, client: AsyncClient
) -> None:
    double.hangs.add("GetPrompt")
    task = asyncio.create_task(client.get_or_compute(REQUEST, Computation()))
    await eventually(lambda: double.gets)
    await client.close()
    with pytest.raises(ClientClosedError):
        await task
    with pytest.raises(ClientClosedError):
        await client.get(REQUEST)
    await client.close()


async def test_no_task_is_left_behind(double: SidecarDouble, address: str) -> None:
    target = await double.start(address)
    before = asyncio.all_tasks()
    async with AsyncClient(target, timeouts=PATIENT) as client:
        await client.get_or_compute(REQUEST, Computation())
        with pytest.raises(ComputeError):
            await client.get_or_compute(replace(REQUEST, prompt="other"), fail)
        await eventually(lambda: not double.open_holds)
        ours = [task for task in asyncio.all_tasks() - before if "Hold" in repr(task)]
        assert not ours
    await double.stop()
    await eventually(lambda: not asyncio.all_tasks() - before)
    gc.collect()  # what was never awaited or closed would warn here, and warnings are errors


async def test_a_client_can_be_made_outside_of_the_loop_that_uses_it(
    double: SidecarDouble,
) -> None:
    target = await double.start("127.0.0.1:0")
    client = await asyncio.to_thread(AsyncClient, target, timeouts=PATIENT)
    assert await client.get(REQUEST) == Miss()
    await client.close()


async def test_a_thousand_callers_of_one_client_compute_once(client: AsyncClient) -> None:
    compute = Computation()
    answers = await asyncio.gather(*(client.get_or_compute(REQUEST, compute) for _ in range(1000)))
    assert compute.calls == 1
    assert {answer.text for answer in answers} == {ANSWER.text}
