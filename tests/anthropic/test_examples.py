"""The examples run as they are, against a sidecar and the local Messages API."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.anthropic.upstream import Upstream
    from tests.e2e.sidecars import Launch

SAID = {
    "anthropic_middleware.py": ["hit; layer=", "{'miss': 1, 'hit': 1, 'bypass/no-store': 1}"],
    "enhanced_client.py": [
        "first: cached=False",
        "second: cached=True",
        "after the masterplan was forgotten: cached=False",
    ],
}


@pytest.mark.parametrize("name", SAID)
async def test_an_example(repository: Path, upstream: Upstream, launch: Launch, name: str) -> None:
    sidecar = await launch()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(repository / "examples" / name),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            "PYTHONPATH": ":".join(sys.path),
            "MGE_CACHE_TARGET": sidecar.target,
            "ANTHROPIC_API_KEY": "made-up",
            "ANTHROPIC_BASE_URL": upstream.base_url,
        },
    )
    said, complained = await process.communicate()
    assert (process.returncode, complained.decode()) == (0, "")
    for expected in SAID[name]:
        assert expected in said.decode()
    assert upstream.calls == 2
