from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mge_cache_server.breaker import Breaker
from mge_cache_server.errors import StoreUnavailableError
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


class Store:
    """Answers probes as told."""

    def __init__(self, *, answers: bool = False) -> None:
        self.answers = answers
        self.probes = 0

    async def probe(self) -> None:
        self.probes += 1
        if not self.answers:
            raise StoreUnavailableError("away")


def is_open(breaker: Breaker) -> bool:
    return breaker.open


def breaker_of(store: Store, *, failures: int = 3, retry_s: float = 0.001) -> Breaker:
    return Breaker(probe=store.probe, failures=failures, retry_s=retry_s)


def events(caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    return (record.getMessage() for record in caplog.records)


async def test_opens_after_failures_in_a_row() -> None:
    breaker = breaker_of(Store())
    breaker.failed("one")
    breaker.failed("two")
    assert not is_open(breaker)
    breaker.succeeded()
    breaker.failed("one")
    breaker.failed("two")
    assert not is_open(breaker)
    breaker.failed("three")
    assert is_open(breaker)
    await breaker.close()
    assert not is_open(breaker)


async def test_one_failure_can_be_enough() -> None:
    breaker = breaker_of(Store(), failures=1)
    breaker.failed("one")
    assert is_open(breaker)
    await breaker.close()


async def test_stays_open_until_a_probe_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = Store()
    breaker = breaker_of(store)
    for _ in range(10):
        breaker.failed("deadline exceeded")
    await eventually(lambda: store.probes >= 3)
    assert is_open(breaker)
    store.answers = True
    await eventually(lambda: not breaker.open)
    probes = store.probes
    await asyncio.sleep(0.01)
    assert store.probes == probes
    assert list(events(caplog)) == ["store unavailable", "store available again"]
    assert caplog.records[0].__dict__["reason"] == "deadline exceeded"


async def test_counts_anew_after_it_has_closed() -> None:
    store = Store(answers=True)
    breaker = breaker_of(store)
    for _ in range(3):
        breaker.failed("away")
    await eventually(lambda: not breaker.open)
    breaker.failed("away")
    breaker.failed("away")
    assert not is_open(breaker)


async def test_what_fails_late_does_not_start_a_second_probe() -> None:
    store = Store()
    breaker = breaker_of(store, retry_s=60.0)
    tasks = len(asyncio.all_tasks())
    for _ in range(50):
        breaker.failed("away")
    assert len(asyncio.all_tasks()) == tasks + 1
    await breaker.close()
    assert len(asyncio.all_tasks()) == tasks


async def test_close_without_ever_opening() -> None:
    await breaker_of(Store()).close()
