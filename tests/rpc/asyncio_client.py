"""The asyncio client at the double of a sidecar, and what it is asked to cache.

``address``, ``double`` and ``client`` are fixtures; a module of tests imports those that it needs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mge_cache import Answer, AsyncClient, PromptRequest, Timeouts, Usage
from tests.rpc.sidecar_double import SidecarDouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

REQUEST = PromptRequest(
    model="a-model", prompt="Why is the sky blue?", parameters={"system": "Be brief."}
)
ANSWER = Answer.from_text(
    "Rayleigh scattering.", usage=Usage(input_tokens=7, output_tokens=3), cost_usd=0.25
)
# Far from any time that a busy machine takes, so that only what is tested ends a call.
PATIENT = Timeouts(get_s=20.0, set_s=20.0, slice_margin_s=20.0)


class Computation:
    """Counts its calls; waits for ``go`` where it is told to."""

    def __init__(self, answer: Answer | str | bytes = ANSWER, *, waits: bool = False) -> None:
        self.calls = 0
        self.go = asyncio.Event()
        self._answer = answer
        if not waits:
            self.go.set()

    async def __call__(self) -> Answer | str | bytes:
        self.calls += 1
        await self.go.wait()
        return self._answer


class ComputeError(Exception):
    """What a provider's SDK might raise."""


async def fail() -> str:
    raise ComputeError


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/s"


@pytest.fixture
async def double() -> AsyncIterator[SidecarDouble]:
    sidecar = SidecarDouble()
    yield sidecar
    await sidecar.stop()


@pytest.fixture
async def client(double: SidecarDouble, address: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(await double.start(address), timeouts=PATIENT) as client:
        yield client
