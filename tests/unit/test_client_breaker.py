from __future__ import annotations

import contextlib
import logging
import threading

import pytest

from mge_cache._breaker import SLOW_MAX, Breaker
from mge_cache._health import Health
from mge_cache.errors import (
    ClientClosedError,
    DeadlineExceededError,
    InternalError,
    MgeCacheError,
    RefusedError,
    UnavailableError,
)


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(retry_s=0.5, clock=clock)


def test_unreachable_opens_at_once_and_nobody_waits_until_it_is_back(
    breaker: Breaker, clock: Clock
) -> None:
    assert breaker.allows()
    assert not breaker.asks()
    assert breaker.failed(slow=False)
    clock.now = 0.49
    assert not breaker.asks()
    clock.now = 0.5
    assert [breaker.asks() for _ in range(3)] == [True, False, False]
    clock.now = 1.0  # the question was not answered
    assert breaker.asks()
    assert not breaker.failed(slow=False)  # it was open already
    clock.now = 1.4
    assert not breaker.asks()
    assert not breaker.allows()
    assert breaker.answered()
    assert not breaker.answered()
    assert breaker.allows()


def test_success_closes(breaker: Breaker) -> None:
    breaker.failed(slow=False)
    assert breaker.succeeded()
    assert not breaker.succeeded()
    assert breaker.allows()
    assert breaker.allows()


def test_deadlines_open_only_in_a_row(breaker: Breaker) -> None:
    for _ in range(SLOW_MAX - 1):
        assert not breaker.failed(slow=True)
    breaker.succeeded()
    for _ in range(SLOW_MAX - 1):
        assert not breaker.failed(slow=True)
    assert breaker.allows()
    assert breaker.failed(slow=True)
    assert not breaker.allows()


def test_being_there_is_not_enough_after_deadlines(breaker: Breaker, clock: Clock) -> None:
    assert breaker.failed(slow=True, generous=True)
    assert not breaker.answered()
    assert not breaker.asks()
    assert not breaker.allows()
    clock.now = 0.5
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    breaker.failed(slow=True)
    clock.now = 0.9
    assert not breaker.allows()
    clock.now = 1.0
    assert breaker.allows()
    assert breaker.succeeded()
    assert [breaker.allows() for _ in range(3)] == [True, True, True]


def test_a_trial_that_meets_silence_waits_for_the_answer_to_a_question(
    breaker: Breaker, clock: Clock
) -> None:
    breaker.failed(slow=True, generous=True)
    breaker.failed(slow=False)
    breaker.failed(slow=True)  # a deadline of before
    clock.now = 0.5
    assert not breaker.allows()
    assert breaker.asks()
    assert breaker.answered()


def test_threads_share_one_question(breaker: Breaker, clock: Clock) -> None:
    breaker.failed(slow=False)
    clock.now = 1.0
    barrier = threading.Barrier(8)
    asked: list[bool] = []

    def ask() -> None:
        barrier.wait()
        asked.append(breaker.asks())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(asked) == [False] * 7 + [True]


def check(health: Health) -> None:
    """Check without a question that could be asked."""
    health.check(lambda: pytest.fail("asked too soon"))


def watch(health: Health, error: MgeCacheError | None) -> None:
    with contextlib.suppress(MgeCacheError), health.watching():
        if error:
            raise error


def test_health_logs_each_change_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    health = Health("unix:/s", retry_s=0.5, clock=clock)
    with caplog.at_level(logging.INFO, logger="mge_cache"):
        for _ in range(3):
            watch(health, UnavailableError("refused"))
        with pytest.raises(UnavailableError, match="not tried"):
            check(health)
        watch(health, ClientClosedError())  # says nothing about the sidecar
        with pytest.raises(UnavailableError):
            check(health)
        watch(health, InternalError())  # it answers
        check(health)
        watch(health, None)
        watch(health, DeadlineExceededError())
        check(health)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_health_logs_a_failing_operation_once_until_it_works_again(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    health = Health("unix:/s", retry_s=0.5, clock=clock)
    with caplog.at_level(logging.INFO, logger="mge_cache"):
        health.went_without("SetPrompt", RefusedError("too big"))
        health.went_without("SetPrompt", RefusedError("too big"))
        assert len(caplog.records) == 1
        health.succeeded("SetPrompt")
        health.went_without("SetPrompt", RefusedError("too big"))
        assert len(caplog.records) == 2
    assert health.failures == 3


def test_one_missed_generous_deadline_is_proof(clock: Clock) -> None:
    health = Health("unix:/s", retry_s=0.5, clock=clock)
    with pytest.raises(DeadlineExceededError), health.watching(generous=True):
        raise DeadlineExceededError
    with pytest.raises(UnavailableError, match="not tried"):
        check(health)


def test_health_asks_for_callers_and_says_once_that_it_is_back(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    health = Health("unix:/s", retry_s=0.5, clock=clock)
    questions: list[float] = []
    watch(health, UnavailableError("refused"))
    for clock.now in (0.25, 0.5, 0.75, 1.0):
        with pytest.raises(UnavailableError, match="not tried"):
            health.check(lambda: questions.append(clock.now))
    assert questions == [0.5, 1.0]
    with caplog.at_level(logging.INFO, logger="mge_cache"):
        health.answered()
        health.answered()
    check(health)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
