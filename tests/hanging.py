"""What callers see of a sidecar that hangs, whatever they call it by."""

from __future__ import annotations

import itertools
import signal
import statistics
import time
from typing import TYPE_CHECKING

from mge_cache.v1 import cache_service_pb2 as pb
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.e2e.sidecars import Sidecar

    Ask = Callable[[str], Awaitable[bool]]

CALLS = 15
MEDIAN_MAX_S = 0.05
"""More than enough on a busy machine, and less than waiting for any deadline takes."""

_QUICK_S = 0.02
_QUICK_CALLS = 40


async def check_hang(sidecar: Sidecar, ask: Ask, *, bare_s: float = 0.0) -> None:
    """Stop the sidecar and let it go on: calls cost little, and then hits come by themselves.

    ``ask`` asks something and says whether the cache answered; the source takes ``bare_s``.
    """
    names = (f"new {number}" for number in itertools.count())
    await eventually(lambda: ask("kept"), within_s=30)
    for _ in range(2):  # what a process learns first
        sidecar.send(signal.SIGSTOP)
        try:
            taken_s = []
            for name in itertools.islice(names, CALLS):
                started_s = time.perf_counter()
                assert not await ask(name)
                taken_s.append(time.perf_counter() - started_s)
            assert not await ask("kept")
        finally:
            sidecar.send(signal.SIGCONT)
        assert statistics.median(taken_s) < bare_s + MEDIAN_MAX_S, taken_s
        await eventually(lambda: ask("kept"), within_s=30)


async def until_settled(sidecar: Sidecar) -> None:
    """Wait until a sidecar that has just started answers quickly, many times in a row.

    It serves while it still loads modules, and stands still for up to 90 ms meanwhile.
    """
    quick = 0

    async def settled() -> bool:
        nonlocal quick
        started_s = time.perf_counter()
        await sidecar.stub.Stats(pb.StatsRequest())
        quick = quick + 1 if time.perf_counter() - started_s < _QUICK_S else 0
        return quick >= _QUICK_CALLS

    await eventually(settled, within_s=30)


async def bare(ask: Ask) -> float:
    """Return what a call of the source alone takes, in seconds."""
    taken_s = []
    for number in range(CALLS):
        started_s = time.perf_counter()
        await ask(f"bare {number}")
        taken_s.append(time.perf_counter() - started_s)
    return statistics.median(taken_s)
