"""Whether a sidecar that is at work is still there: one look that is late does not say no."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mge_cache import Completion, PromptRequest, Timeouts
from mge_cache.anthropic._batched import Batched, Unanswered
from tests.rpc.generate_double import GenerateDouble
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mge_cache.v1 import cache_service_pb2 as pb
    from tests.rpc.sidecar_double import Context

REQUEST = PromptRequest(model="a-model", prompt="Why?")


class Dozing(GenerateDouble):
    """Does not answer the look-ups of ``late``, counted from 1."""

    def __init__(self, *, late: range) -> None:
        super().__init__()
        self.late = late
        self.looks = 0

    async def GetPrompt(  # noqa: N802 - the contract's name
        self, request: pb.GetPromptRequest, context: Context
    ) -> pb.GetPromptResponse:
        self.looks += 1
        if self.looks in self.late:
            await asyncio.Event().wait()
        return await super().GetPrompt(request, context)


@asynccontextmanager
async def watching(double: Dozing, folder: Path) -> AsyncIterator[Batched]:
    timeouts = Timeouts(get_s=0.3, retry_s=60.0)
    target = await double.start(f"unix:{folder}/s")
    batched = Batched(target, timeouts=timeouts, ttl_s=None, caching=True, look_s=0.01)
    try:
        yield batched
    finally:
        await batched.close()
        await double.stop()


async def test_a_late_look_pays_for_nothing_twice(tmp_path: Path) -> None:
    double = Dozing(late=range(2, 3))
    async with watching(double, tmp_path) as batched:
        asking = asyncio.ensure_future(batched.generate(REQUEST, masterplan=None))
        await eventually(lambda: double.looks > 3 or asking.done())
        assert not asking.done(), "given up"
        await double.talk.complete(double.ids[0], "Because.")
        completion = await asking
        assert isinstance(completion, Completion)
        assert (completion.text, batched.failures) == ("Because.", 0)


async def test_looks_that_stay_late_end_the_wait(tmp_path: Path) -> None:
    async with watching(Dozing(late=range(2, 99)), tmp_path) as batched:
        assert await batched.generate(REQUEST, masterplan=None) is Unanswered.AWAY
        assert batched.failures == 1
