"""Runs a program that starts servers, so that none is left behind."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, TypeVar

import uvloop

if TYPE_CHECKING:
    from collections.abc import Coroutine

Result = TypeVar("Result")

INTERRUPTED = 130
"""The exit code after Ctrl-C."""


class StoppedError(Exception):
    """SIGINT or SIGTERM ended the program; its servers have been stopped."""


def run(main: Coroutine[object, object, Result]) -> Result:
    """Run ``main`` on uvloop. SIGINT and SIGTERM cancel it, and raise when it has cleaned up."""

    async def interruptible() -> Result:
        task = asyncio.ensure_future(main)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        return uvloop.run(interruptible())
    except asyncio.CancelledError:
        raise StoppedError("interrupted; every server has been stopped") from None
