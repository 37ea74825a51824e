"""The examples run as they are, against a sidecar and the local Messages API; the page's do too."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_docs import DOCS, EXAMPLE

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
ON_THE_PAGE = [
    (found["code"], found["printed"])
    for found in EXAMPLE.finditer((DOCS / "anthropic.md").read_text())
]


async def printed_by(script: Path, upstream: Upstream, target: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            "PYTHONPATH": ":".join(sys.path),
            "MGE_CACHE_TARGET": target,
            "ANTHROPIC_API_KEY": "made-up",
            "ANTHROPIC_BASE_URL": upstream.base_url,
        },
    )
    said, complained = await process.communicate()
    assert (process.returncode, complained.decode()) == (0, "")
    return said.decode()


async def until_it_says(
    expected: list[str], script: Path, upstream: Upstream, launch: Launch, *, calls: int
) -> None:
    """Run a script, up to five times: on a busy machine a look-up can miss its deadline."""
    for _ in range(5):
        sidecar, before = await launch(), upstream.calls
        said = await printed_by(script, upstream, sidecar.target)
        missing = [each for each in expected if each not in said]
        if not missing and upstream.calls == before + calls:
            return
    raise AssertionError(said)


@pytest.mark.parametrize("name", SAID)
async def test_an_example(repository: Path, upstream: Upstream, launch: Launch, name: str) -> None:
    script = repository / "examples" / name
    await until_it_says(SAID[name], script, upstream, launch, calls=2)


@pytest.mark.parametrize("number", range(len(ON_THE_PAGE)))
async def test_an_example_on_the_page(
    upstream: Upstream, launch: Launch, tmp_path: Path, number: int
) -> None:
    code, printed = ON_THE_PAGE[number]
    script = tmp_path / "example.py"
    script.write_text(code)
    await until_it_says([printed], script, upstream, launch, calls=1)


def test_the_page_has_examples() -> None:
    assert len(ON_THE_PAGE) == 2
