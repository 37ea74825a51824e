"""Processes that are started, measured and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STOP_S = 15.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class StartError(Exception):
    """A process ended, or was not ready in time; the text has the end of what it wrote."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes, and the share of them after dividing shared pages among their users."""

    rss_bytes: int
    pss_bytes: int


class Process:
    """A child process with its output in a file. It gets no Ctrl-C: its starter stops it."""

    def __init__(
        self, arguments: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        self.started_at = perf_counter()
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def output(self) -> str:
        """Return what it has written so far."""
        return self._log.read_text(errors="replace")

    def cpu_s(self) -> float:
        """Return the processor time that it has used, in user and system mode, all threads."""
        return cpu_s(self.pid)

    def stop(self) -> int:
        """Send SIGTERM, after a while SIGKILL; return the exit code."""
        if self._popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.close()
        if self.running:
            self._popen.send_signal(signal.SIGTERM)
        try:
            return self._popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait()


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def cpu_s(pid: int) -> float:
    """Return the processor time of a process, in seconds (resolution: a tick, mostly 10 ms)."""
    # The name in parentheses may hold spaces; the fields after it may not.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def memory(pid: int) -> Memory:
    """Return what a process takes now."""
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * 1024
    return Memory(sizes["Rss"], sizes["Pss"])


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that still run."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


async def ready(process: Process, target: str, *, timeout_s: float = 20.0) -> float:
    """Wait for a process to answer SERVING; return the seconds since its start.

    ``target`` is a gRPC address on a unix socket. Raises ``StartError``.
    """
    deadline = monotonic() + timeout_s
    socket = target.removeprefix("unix:")
    while monotonic() < deadline and process.running:
        # A channel to a socket that is not there yet would back off for a second.
        if os.path.exists(socket):  # noqa: ASYNC240, PTH110 - a stat does not block
            with contextlib.suppress(grpc.aio.AioRpcError):
                await _check(target)
                return perf_counter() - process.started_at
        await asyncio.sleep(0.005)
    process.stop()
    raise StartError(f"{target} is not serving:\n{process.output()[-2000:]}")


async def _check(target: str) -> None:
    async with grpc.aio.insecure_channel(
        target, options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise StartError(f"health is {answer.status}")
