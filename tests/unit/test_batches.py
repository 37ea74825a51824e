"""When batches close, to the moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mge_cache_server.batch_counts import BatchCounts
from mge_cache_server.batches import BATCH_BYTES_MAX, Batches, BatchPolicy
from mge_cache_server.errors import DefectError, QueueFullError, RateLimitedError
from mge_cache_server.generation import Reply, Strategy
from mge_cache_server.limiter import Limiter
from mge_cache_server.metrics_batcher import BatchHistograms
from mge_cache_server.model import Usage
from mge_cache_server.slots import Slot
from tests.unit.questions import make_request
from tests.unit.virtual_time import now, virtual_time

if TYPE_CHECKING:
    from collections.abc import Sequence

REPLY = Reply(
    "yes",
    "end_turn",
    Usage(),
    0.0,
    priced=True,
    compute_s=1.0,
    batch_size=1,
    strategy=Strategy.FAN_OUT,
)


class Dispatched:
    """A strategy that notes what it was given, and answers when it is told to."""

    def __init__(self) -> None:
        self.batches: list[tuple[float, list[str]]] = []
        self.go = asyncio.Event()
        self.failure: Exception | None = None
        self.prepared: list[str] = []

    def prepare(self, slot: Slot) -> None:
        self.prepared.append(slot.question.prompt or "")

    async def send(self, slots: Sequence[Slot]) -> None:
        began_s = now()
        self.batches.append((began_s, [slot.question.prompt or "" for slot in slots]))
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        for slot in slots:
            slot.settle(REPLY)


def make(
    dispatched: Dispatched, *, eager: bool = False, queue_max: int = 100
) -> tuple[Batches, BatchCounts]:
    counts = BatchCounts(BatchHistograms())
    policy = BatchPolicy(
        window_s={Strategy.FAN_OUT: 0.5, Strategy.MERGE: 0.5, Strategy.DEFERRED: 60.0},
        batch_max={Strategy.FAN_OUT: 5, Strategy.MERGE: 5, Strategy.DEFERRED: 1000},
        eager=eager,
        queue_max=queue_max,
    )
    batches = Batches(
        dict.fromkeys(Strategy, dispatched),
        limiter=Limiter(4),
        policy=policy,
        counts=counts,
    )
    return batches, counts


def add(batches: Batches, prompt: str, **fields: object) -> Slot:
    slot = Slot(make_request(prompt, **fields), gone=lambda: None)  # type: ignore[arg-type]
    batches.add(slot)
    return slot


@virtual_time
async def test_a_window_is_over_after_half_a_second() -> None:
    dispatched, began_s = Dispatched(), now()
    batches, _ = make(dispatched)
    add(batches, "1")
    await asyncio.sleep(0.4)
    add(batches, "2")
    assert batches.queued == 2
    await asyncio.sleep(0.099)
    assert dispatched.batches == []
    await asyncio.sleep(0.002)
    [(at_s, texts)] = dispatched.batches
    assert (at_s, texts) == (began_s + 0.5, ["1", "2"])
    assert batches.queued == 0
    await batches.abort()


@virtual_time
async def test_five_close_it_at_once_and_the_sixth_begins_another() -> None:
    dispatched, began_s = Dispatched(), now()
    batches, counts = make(dispatched)
    for number in range(6):
        add(batches, str(number))
    await asyncio.sleep(0)
    assert dispatched.batches == [(began_s, ["0", "1", "2", "3", "4"])]
    await asyncio.sleep(0.6)
    assert [texts for _, texts in dispatched.batches[1:]] == [["5"]]
    assert (counts.requests, counts.batches[Strategy.FAN_OUT]) == (6, 2)
    await batches.abort()


@virtual_time
async def test_deferred_questions_need_not_agree() -> None:
    dispatched = Dispatched()
    batches, _ = make(dispatched)
    add(batches, "1", system="one", strategy=Strategy.DEFERRED)
    add(batches, "2", system="other", strategy=Strategy.DEFERRED)
    await asyncio.sleep(60.1)
    assert [texts for _, texts in dispatched.batches] == [["1", "2"]]
    await batches.abort()


@virtual_time
async def test_a_batch_closes_before_it_is_too_large_to_send() -> None:
    dispatched = Dispatched()
    batches, _ = make(dispatched)
    half = BATCH_BYTES_MAX // 2
    gone = add(batches, "0", strategy=Strategy.DEFERRED, size_bytes=half)
    gone.answer.cancel()
    await asyncio.sleep(0)
    for prompt in "123":
        add(batches, prompt, strategy=Strategy.DEFERRED, size_bytes=half)
    await asyncio.sleep(0)
    assert [texts for _, texts in dispatched.batches] == [["1", "2"]]
    await asyncio.sleep(60.1)
    assert [texts for _, texts in dispatched.batches[1:]] == [["3"]]
    await batches.abort()


@virtual_time
async def test_a_batch_that_everybody_left_is_not_sent() -> None:
    dispatched = Dispatched()
    batches, counts = make(dispatched)
    slot = add(batches, "1")
    slot.answer.cancel()
    await asyncio.sleep(1.0)
    assert (dispatched.batches, batches.queued, counts.requests) == ([], 0, 0)


@virtual_time
async def test_eager_waits_only_behind_its_own_kind() -> None:
    dispatched, began_s = Dispatched(), now()
    batches, _ = make(dispatched, eager=True)
    add(batches, "1")
    add(batches, "2", system="other")
    await asyncio.sleep(0.01)
    add(batches, "3")
    await asyncio.sleep(0.6)
    times = [at_s for at_s, _ in dispatched.batches]
    assert times == [began_s, began_s, pytest.approx(began_s + 0.51)]
    dispatched.go.set()
    await asyncio.sleep(0.1)
    add(batches, "4")
    await asyncio.sleep(0.01)
    assert dispatched.batches[-1][1] == ["4"], "nothing is under way any more"


@virtual_time
async def test_a_full_queue_says_when_to_come_back() -> None:
    dispatched = Dispatched()
    batches, counts = make(dispatched, queue_max=2)
    add(batches, "1")
    add(batches, "2")
    with pytest.raises(QueueFullError) as caught:
        add(batches, "3")
    assert caught.value.retry_after_s == 1.0
    assert counts.rejected == 1
    await asyncio.sleep(0.6)
    add(batches, "3")
    await batches.abort()


@virtual_time
async def test_closing_sends_what_waits() -> None:
    dispatched, began_s = Dispatched(), now()
    batches, _ = make(dispatched)
    add(batches, "1")
    batches.close()
    add(batches, "2")
    await asyncio.sleep(0)
    assert dispatched.batches == [(began_s, ["1"]), (began_s, ["2"])]
    await batches.abort()


@pytest.mark.parametrize(
    ("failure", "expected"), [(RateLimitedError("x"), RateLimitedError), (OSError(), DefectError)]
)
def test_no_question_is_left_without_an_outcome(
    failure: Exception, expected: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    @virtual_time
    async def run() -> None:
        dispatched = Dispatched()
        batches, _ = make(dispatched)
        slot = add(batches, "1")
        dispatched.failure = failure
        dispatched.go.set()
        await asyncio.sleep(1.0)
        assert isinstance(slot.answer.exception(), expected)

    run()
    assert ("internal error" in caplog.text) == (expected is DefectError)


@virtual_time
async def test_only_what_would_go_at_once_is_made_ready() -> None:
    dispatched = Dispatched()
    batches, _ = make(dispatched, eager=True)
    first, second = (Slot(make_request(each), gone=lambda: None) for each in ("a", "b"))
    batches.prepare(first)
    batches.add(first)
    batches.prepare(second)  # one like it is under way: it waits
    assert dispatched.prepared == ["a"]
    dispatched.go.set()
    await batches.handed_over(1.0)
    await batches.abort()
