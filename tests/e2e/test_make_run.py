"""``make run``, as a newcomer runs it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.sidecars import python_process
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

MAKE = "import os, sys; os.execvp('make', ['make', *sys.argv[1:]])"
ARGUMENTS = "--listen 127.0.0.1:0 --http-listen 127.0.0.1:0"


@pytest.fixture
def data() -> Iterator[Path]:
    """A data folder that does not exist yet."""
    # Not tmp_path: the path of a unix socket has 100 characters at most.
    with tempfile.TemporaryDirectory(prefix="mge-") as folder:
        yield Path(folder) / "data"


@pytest.fixture
def make_run(repository: Path, tmp_path: Path, data: Path) -> Iterator[subprocess.Popen[bytes]]:
    question = ["make", "--question", "-C", str(repository), ".venv/.ready"]
    if subprocess.run(question, check=False, capture_output=True).returncode:
        pytest.skip("make has not set .venv up, or would do so anew")
    process = python_process(
        ["-c", MAKE, "-C", str(repository), "run", f"ARGS={ARGUMENTS}"],
        stdout=tmp_path / "stdout",
        stderr=tmp_path / "stderr",
        # Only what .venv has, as for a newcomer.
        environment={"MGE_CACHE_DATA_DIR": str(data), "PYTHONPATH": ""},
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


async def test_it_tells_what_to_try_and_ctrl_c_ends_all(
    make_run: subprocess.Popen[bytes], repository: Path, tmp_path: Path, data: Path
) -> None:
    def line_to_try() -> str:
        said = (tmp_path / "stdout").read_text()
        assert make_run.poll() is None, (tmp_path / "stderr").read_text()
        found = re.search(r"Try it from another terminal:\n +(.+)\n", said)
        return found[1] if found else ""

    line = await eventually(line_to_try, within_s=60)
    tried = await asyncio.create_subprocess_shell(
        line, cwd=repository, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await tried.communicate()
    assert (tried.returncode, said[-8:]) == (0, b"Hi there"), said.decode()
    announced = (tmp_path / "stdout").read_text()
    assert re.search(
        rf"^  gRPC   unix:{data}/mge\.sock, 127\.0\.0\.1:\d+$", announced, re.MULTILINE
    )
    assert re.search(r"^  HTTP   http://127\.0\.0\.1:\d+ ", announced, re.MULTILINE)
    if sys.platform == "linux":
        assert len(processes_in(data)) == 1  # the embedded Valkey
    os.killpg(make_run.pid, signal.SIGINT)
    make_run.wait(timeout=30)
    assert '"event": "stopped"' in (tmp_path / "stderr").read_text()
    if sys.platform == "linux":
        assert processes_in(data) == []


def processes_in(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if (process / "cwd").readlink() == folder:
                found.append(process.name)
    return found
