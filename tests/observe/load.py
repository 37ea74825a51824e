"""Callers of a sidecar whose every kind of call, hit and miss leaves its mark on the metrics."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

from mge_cache import Answer, AsyncClient, PromptRequest, RagDocument, RagQuery
from mge_cache.v1.cache_service_pb2_grpc import CacheServiceStub
from tests.e2e.sidecars import open_channel
from tests.rpc.talk import Talk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_DIMENSION = 16
_PAUSE_S = 0.02
_TURN = 0.02


def _query(seed: int, *, turned: bool) -> RagQuery:
    numbers = random.Random(seed)
    vector = [numbers.gauss(0, 1) for _ in range(_DIMENSION)]
    if turned:
        vector = [value + _TURN * random.Random(value).gauss(0, 1) for value in vector]
    return RagQuery(
        embedding_model="m", embedding=vector, query=f"{seed} {turned}", collection="faq"
    )


async def _calls(target: str) -> None:
    async def answer() -> Answer:
        return Answer(b"text", cost_usd=0.01)

    async def documents() -> list[RagDocument]:
        return [RagDocument("d", b"text")]

    async with AsyncClient(target) as client, open_channel(target) as channel:
        talk = Talk(CacheServiceStub(channel))
        number = 0
        while True:
            number += 1
            request = PromptRequest(model="m", prompt=f"question {number // 2}")
            await client.get_or_compute(request, answer)
            await client.retrieve_or_compute(
                _query(number // 2, turned=bool(number % 2)), documents, cost_usd=0.001
            )
            await talk.start(f"{number}")
            await talk.end(f"{number}")
            await asyncio.sleep(_PAUSE_S)


@contextlib.asynccontextmanager
async def load(target: str) -> AsyncIterator[None]:
    """Call the sidecar again and again as long as the context lasts."""
    calling = asyncio.create_task(_calls(target))
    try:
        yield
    finally:
        calling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await calling
