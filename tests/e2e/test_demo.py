"""The demo in a small size, and the Messages server that it talks to."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import anthropic
import pytest

from tests.bench.processes import children
from tests.demo.texts import collect
from tests.demo.work import zipf_sequence
from tests.messages_server.answers import bill_usd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = "claude-sonnet-5-5"  # the SDK warns of older ones, and warnings are errors here
ENDED_S = 20


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.demo", *arguments]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short, as that of a socket in it must be; ``tmp_path`` is not."""
    with tempfile.TemporaryDirectory(prefix="mge-") as name:
        yield Path(name)


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder), "COLUMNS": "100"}


def family(pid: int) -> list[int]:
    """List all processes that a process has started, and that those have started."""
    started = children(pid)
    return started + [each for child in started for each in family(child)]


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_demo_saves_and_its_accounts_agree(folder: Path) -> None:
    size = (
        "--calls 120 --texts 30 --concurrency 8 --sample 10 --delay 0.05 --questions 150 --atoms 30"
    )
    done = subprocess.run(
        command(*size.split()),
        cwd=REPOSITORY,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The accounts agree" in done.stdout
    assert "extrapolated from 10 calls" in done.stdout
    for kind in ("exact", "similar", "similar, certified"):
        assert re.search(rf"^  {kind} +\d+ \(", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^  asked Anthropic +\d+ +0 *$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^  batches +\d+ of \d.* none *$", done.stdout, re.MULTILINE), done.stdout
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_leaves_nothing_behind(folder: Path, number: signal.Signals) -> None:
    demo = subprocess.Popen(
        command("--texts", "30", "--delay", "1000"),
        cwd=REPOSITORY,
        env=environment(folder),
        stdout=subprocess.PIPE,
        text=True,
    )
    with demo:
        assert demo.stdout is not None
        assert "calls about" in demo.stdout.readline()  # printed once all servers are up
        started = family(demo.pid)
        demo.send_signal(number)
        assert demo.wait(ENDED_S) == 130
    assert len(started) == 3  # Messages server, sidecar, Valkey
    assert not [pid for pid in started if runs(pid)]
    assert list(folder.iterdir()) == []


def test_texts_and_their_order_are_the_same_each_time() -> None:
    assert collect(50) == collect(50)
    first, again = (zipf_sequence(calls=500, texts=50, exponent=1.1, seed=7) for _ in range(2))
    assert first == again
    top = max(set(first), key=first.count)
    assert first.count(top) > 500 / 50 * 3  # Zipf, not uniform


@pytest.fixture
async def provider() -> AsyncIterator[anthropic.AsyncAnthropic]:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.messages_server", "--delay", "0.01"),
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    assert server.stdin is not None
    base_url = (await server.stdout.readline()).decode().strip()
    async with anthropic.AsyncAnthropic(
        base_url=base_url,
        api_key="none-needed",
        max_retries=0,
        http_client=anthropic.DefaultAsyncHttpxClient(trust_env=False),
    ) as client:
        yield client
    server.stdin.close()  # it ends with whoever started it
    assert await asyncio.wait_for(server.wait(), ENDED_S) == 0


async def test_messages_server_answers_whole_and_as_a_stream(
    provider: anthropic.AsyncAnthropic,
) -> None:
    question = {"role": "user", "content": "Explain asyncio.sleep to me, please."}
    whole = await provider.messages.create(
        model=MODEL,
        max_tokens=300,
        messages=[question],  # type: ignore[list-item] # a plain dict is what people write
    )
    async with provider.messages.stream(
        model=MODEL,
        max_tokens=300,
        messages=[question],  # type: ignore[list-item]
    ) as stream:
        streamed = "".join([text async for text in stream.text_stream])
        final = await stream.get_final_message()
    assert streamed == "".join(block.text for block in whole.content if block.type == "text")
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.stop_reason == whole.stop_reason == "end_turn"
    assert bill_usd(MODEL, 1_000_000, 100_000) == pytest.approx(3.0)


async def test_messages_server_refuses_as_the_api_does(provider: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="model: claude-none"):
        await provider.messages.create(
            model="claude-none", max_tokens=1, messages=[{"role": "user", "content": "Hi"}]
        )
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        await provider.messages.create(
            model=MODEL, max_tokens=0, messages=[{"role": "user", "content": "Hi"}]
        )
