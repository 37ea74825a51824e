"""The asyncio client at a sidecar whose Generate is scripted.

``address``, ``double`` and ``client`` are fixtures; a module of tests imports those that it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mge_cache import AsyncClient, PromptRequest, Timeouts
from tests.rpc.generate_double import GenerateDouble
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mge_cache import AsyncGeneration

REQUEST = PromptRequest(
    model="a-model",
    prompt="Why is the sky blue?",
    temperature=0.5,
    parameters={"system": "Be brief."},
    namespace="plans",
)
# Far from any time that a busy machine takes.
PATIENT = Timeouts(generate_margin_s=60.0)


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/s"


@pytest.fixture
async def double() -> AsyncIterator[GenerateDouble]:
    sidecar = GenerateDouble()
    yield sidecar
    await sidecar.stop()


@pytest.fixture
async def client(double: GenerateDouble, address: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(await double.start(address), timeouts=PATIENT) as client:
        yield client


async def one(double: GenerateDouble, client: AsyncClient) -> AsyncGeneration:
    """A request that the sidecar has seen."""
    generation = client.generate(REQUEST, request_id="r")
    await eventually(lambda: double.ids == ["r"])
    return generation
