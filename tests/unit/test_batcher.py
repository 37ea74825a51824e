"""Callers who come and go while a question is under way, to the moment."""

from __future__ import annotations

import pytest

from mge_cache_server.errors import DefectError, QueueFullError
from mge_cache_server.generation import AnswerSource, Completion, Strategy
from tests.unit.batching import Batching, Caller
from tests.unit.dictated import LONG_SYSTEM
from tests.unit.questions import make_request
from tests.unit.scene import turns
from tests.unit.virtual_time import virtual_time


def completion_of(caller: Caller) -> Completion:
    caller.read()
    assert isinstance(caller.outcome, Completion), caller.outcome
    return caller.outcome


@virtual_time
async def test_who_asks_just_after_the_last_has_left_gets_a_slot_of_its_own() -> None:
    batching = Batching()
    await batching.connect()
    gone = batching.submit(make_request("x"))
    await batching.sent()
    [first] = batching.upstream.live
    gone.leave()
    # The task that led it has not ended yet.
    caller = batching.submit(make_request("x"))
    await batching.sent()
    assert first.cancelled
    [second] = batching.upstream.live
    second.say("yes")
    second.end()
    await turns()
    assert completion_of(caller).text == "yes"
    batching.check_nothing_leaks()


@virtual_time
async def test_an_answer_that_is_paid_for_is_kept_though_the_last_has_just_left() -> None:
    batching = Batching()
    await batching.connect()
    caller = batching.submit(make_request("x"))
    await batching.sent()
    [call] = batching.upstream.live
    call.say("yes")
    call.end()
    [slot] = batching.batcher._slots.values()
    while slot.is_wanted:
        await turns(1)
    assert not slot.is_over, "it was bought, but nobody has been told"
    caller.leave()
    await turns()
    again = batching.submit(make_request("x"))
    await turns()
    assert completion_of(again).source is AnswerSource.CACHE
    assert batching.cache.layer().spent_usd > 0
    batching.check_nothing_leaks()


@virtual_time
async def test_who_pays_and_leaves_unread_leaves_the_bill_to_the_next() -> None:
    batching = Batching()
    await batching.connect()
    first, second = batching.submit(make_request("x")), batching.submit(make_request("x"))
    await batching.sent()
    [call] = batching.upstream.live
    call.say("yes")
    call.end()
    await turns()
    first.leave()
    assert completion_of(second).source is AnswerSource.UPSTREAM
    assert completion_of(second).cost_usd > 0
    batching.check_nothing_leaks()


@virtual_time
async def test_no_call_is_made_for_who_left_while_the_first_went_ahead() -> None:
    batching = Batching(batch_max=2)
    await batching.connect()
    first = batching.submit(make_request("1", system=LONG_SYSTEM))
    second = batching.submit(make_request("2", system=LONG_SYSTEM))
    await turns()
    [ahead] = batching.upstream.calls
    leaver = second if ahead.prompts == ["1"] else first
    leaver.leave()
    ahead.begin()
    await turns()
    assert len(batching.upstream.calls) == 1
    ahead.end()
    await turns()
    batching.check_nothing_leaks()


@virtual_time
async def test_who_finds_the_queue_full_gives_its_lease_back() -> None:
    batching = Batching(queue_max=1)
    await batching.connect()
    batching.submit(make_request("first"))
    await turns()
    refused = batching.submit(make_request("second"))
    await turns()
    refused.read()
    assert isinstance(refused.outcome, QueueFullError)
    assert len(batching.cache.store.data._data.leases) == 1, "that of the first"
    await batching.batcher.abort()
    await turns()
    batching.check_nothing_leaks()


@pytest.mark.parametrize("strategy", [Strategy.FAN_OUT, Strategy.MERGE])
@virtual_time
async def test_a_defect_in_one_call_is_no_other_callers(
    strategy: Strategy, caplog: pytest.LogCaptureFixture
) -> None:
    batching = Batching(batch_max=2)
    await batching.connect()
    unlucky = batching.submit(make_request("my secret", strategy=strategy))
    lucky = batching.submit(make_request("y", strategy=strategy))
    await turns()
    calls = {call.prompts[0]: call for call in batching.upstream.live}
    calls["my secret"].fail(ValueError("my secret"))
    await turns()
    unlucky.read()
    assert isinstance(unlucky.outcome, DefectError)
    calls["y"].say("yes")
    calls["y"].end()
    await turns()
    assert completion_of(lucky).text == "yes"
    [logged] = [str(record.__dict__) for record in caplog.records]
    assert "ValueError" in logged
    assert "my secret" not in logged
    batching.check_nothing_leaks()
