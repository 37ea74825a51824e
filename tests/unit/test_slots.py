"""Answers that many read while they arrive."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from mge_cache_server.errors import UpstreamUnavailableError
from mge_cache_server.generation import AnswerSource, Completion
from mge_cache_server.model import Usage
from mge_cache_server.slots import Reader, Slot
from tests.unit.questions import make_request
from tests.unit.virtual_time import virtual_time


def completion(text: str) -> Completion:
    return Completion(text, "end_turn", Usage(1, 2), 0.5, 0.0, AnswerSource.UPSTREAM)


@dataclass
class Caller:
    """Reads when it is told to."""

    slot: Slot
    text: str = ""
    restarts: int = 0
    woken: int = 0
    outcome: object = None
    reader: Reader = field(init=False)

    def __post_init__(self) -> None:
        self.reader = self.slot.join((), self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def read(self) -> None:
        progress = self.reader.take()
        if progress.restarted:
            self.restarts += 1
            self.text = ""
        self.text += progress.text
        self.outcome = progress.outcome


STEPS = st.one_of(
    st.text(max_size=4).map(lambda text: ("feed", text)),
    st.just(("restart", "")),
    st.just(("join", "")),
    st.integers(0, 4).map(lambda index: ("read", str(index))),
)


@given(st.lists(STEPS, max_size=40))
def test_whoever_reads_whenever_gets_the_whole(steps: list[tuple[str, str]]) -> None:
    @virtual_time
    async def run() -> None:
        slot = Slot(make_request(), gone=lambda: None)
        callers, text = [Caller(slot)], ""
        for step, given_text in steps:
            match step:
                case "feed":
                    slot.feed(given_text)
                    text += given_text
                case "restart":
                    slot.restart()
                    text = ""
                case "join":
                    callers.append(Caller(slot))
                case "read":
                    callers[int(given_text) % len(callers)].read()
        slot.complete(completion(text))
        for caller in callers:
            caller.read()
            assert caller.woken
            assert caller.text == text
            assert isinstance(caller.outcome, Completion)
        costs = [each.outcome.cost_usd for each in callers if isinstance(each.outcome, Completion)]
        assert sum(costs) == 0.5, "it is paid for once"

    run()


@virtual_time
async def test_a_restart_that_nobody_saw_is_none() -> None:
    slot = Slot(make_request(), gone=lambda: None)
    caller = Caller(slot)
    slot.feed("unseen")
    slot.restart()
    slot.feed("seen")
    caller.read()
    assert (caller.restarts, caller.text) == (0, "seen")


@virtual_time
async def test_the_last_to_leave_ends_it() -> None:
    ends: list[str] = []
    slot = Slot(make_request(), gone=lambda: ends.append("gone"))
    one, other = Caller(slot), Caller(slot)
    one.reader.leave()
    assert ends == []
    other.reader.leave()
    assert ends == ["gone"]
    slot.fail(UpstreamUnavailableError("x"))
    late = Caller(slot)
    late.reader.leave()
    assert ends == ["gone"], "it is over: there is nothing to end"


@virtual_time
async def test_an_error_that_nobody_awaits_is_no_warning() -> None:
    slot = Slot(make_request(), gone=lambda: None)
    slot.refuse(UpstreamUnavailableError("x"))
    slot.refuse(UpstreamUnavailableError("y"))
    del slot
    await asyncio.sleep(0)
