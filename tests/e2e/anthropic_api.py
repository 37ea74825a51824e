"""Anthropic's API as a process, and the settings of a sidecar that asks it.

``anthropic_settings`` is a fixture; a folder's conftest.py imports it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest

from tests.e2e.commands import environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["anthropic_settings"]


@pytest.fixture
async def anthropic_settings() -> AsyncIterator[dict[str, str]]:
    """The environment of a sidecar that asks a Messages server without delays."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.messages_server", "--delay", "0"),
        stdin=asyncio.subprocess.PIPE,  # it ends when this is closed
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        url = (await process.stdout.readline()).decode().strip()
        # No proxy of this machine comes between.
        yield {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "none-needed", "NO_PROXY": "*"}
    finally:
        process.stdin.close()
        await process.wait()
