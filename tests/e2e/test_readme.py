"""What the README shows, run as it stands there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.hanging import until_settled

if TYPE_CHECKING:
    from tests.e2e.sidecars import Launch, Sidecar
    from tests.servers.fixtures import Servers

README = Path(__file__).resolve().parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    lines = (line for block in blocks("sh") for line in block.splitlines())
    return [line.partition("#")[0].strip() for line in lines if line.startswith("mge-cache ")]


def environment(**settings: str) -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("MGE_")}
    return {**inherited, "PYTHONPATH": os.pathsep.join(sys.path), **settings}


async def run(*arguments: str, cwd: Path, settings: dict[str, str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=cwd,
        env=environment(**settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    if "--watch" in arguments:
        said = await process.stdout.readuntil(b"llm")
        process.send_signal(signal.SIGINT)
        said += await process.stdout.read()
        return 0 if await process.wait() == 130 else 1, said.decode()
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


@pytest.fixture
def redis_url(servers: Servers) -> str:
    return servers.url("valkey9")


@pytest.fixture
async def sidecar(
    launch: Launch, redis_url: str, key_prefix: str, anthropic_settings: dict[str, str]
) -> Sidecar:
    options = ("--key-prefix", key_prefix, "--store-timeout", "10s")
    return await launch(redis_url, options=options, tcp=True, environment=anthropic_settings)


async def test_the_python_examples(sidecar: Sidecar, tmp_path: Path) -> None:
    await until_settled(sidecar)  # the examples have the usual time limits
    where = {"MGE_CACHE_TARGET": sidecar.targets[1]}
    computed, retrieved, generated = blocks("python")
    for example, printed in ((computed, "Paris.\n"), (retrieved, "['faq-17']\n")):
        (tmp_path / "example.py").write_text(example)
        for _ in range(2):
            assert await run("example.py", cwd=tmp_path, settings=where) == (0, printed)
    (tmp_path / "example.py").write_text(generated)
    (code, asked), (again, cached) = [
        await run("example.py", cwd=tmp_path, settings=where) for _ in range(2)
    ]
    assert (code, again) == (0, 0), asked + cached
    text, _, summary = asked.rpartition("\n")[0].rpartition("\n")
    assert (text[:5], summary[:11]) == ("This ", "upstream: $")
    assert cached == f"{text}\ncache: $0.000000\n"
    stats = await sidecar.stub.Stats(pb.StatsRequest())
    llm, rag = stats.layers[0], stats.layers[1]
    assert (rag.total_misses, rag.total_hits) == (1, 1)
    assert (llm.total_misses, llm.total_hits) == (2, 2)
    assert llm.saved_usd == pytest.approx(llm.spent_usd)
    assert llm.spent_usd > 0


async def test_each_command(
    sidecar: Sidecar, redis_url: str, key_prefix: str, tmp_path: Path
) -> None:
    line = {"model": "m", "prompt": "Why?", "answer": "Because.", "masterplan": "plan-7"}
    (tmp_path / "answers.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "query.json").write_text("[0.6, 0.8]")
    (tmp_path / "found.jsonl").write_text('{"id": "faq-17", "content": "Choose Log in"}\n')
    settings = {
        "MGE_CACHE_TARGET": sidecar.target,
        "MGE_CACHE_REDIS_URL": redis_url,
        "MGE_CACHE_KEY_PREFIX": key_prefix,
        "MGE_CACHE_STORE_TIMEOUT": "10s",
        "MGE_CACHE_LISTEN": "127.0.0.1:0",
        "MGE_CACHE_HTTP_LISTEN": "127.0.0.1:0",
    }
    shown = commands()
    assert len(shown) >= 5
    for command in shown:
        arguments = shlex.split(command)[1:]
        code, said = await run(
            "-m", "mge_cache_server", *arguments, cwd=tmp_path, settings=settings
        )
        assert code == 0, f"{command}: {said}"
    assert (tmp_path / "plans.jsonl").exists()


def test_the_settings_are_those_of_the_code() -> None:
    from tools.settings_pages import readme_with_settings

    assert README.read_text() == readme_with_settings(README.read_text()), "run: make settings"
