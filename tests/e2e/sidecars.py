"""Sidecars as processes of their own, and raw stubs to talk to them.

``launch`` is a fixture; a folder's conftest.py imports it with those of ``tests.servers.fixtures``.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mge_cache.v1.cache_service_pb2_grpc import CacheServiceStub
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub

__all__ = ["Launch", "Sidecar", "SidecarStartError", "launch", "open_channel", "python_process"]

START_S = 30.0
STOP_S = 20.0

# Linux ends the process when the thread that started it ends: tests start theirs in the main one.
_DIE_WITH_PARENT = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class SidecarStartError(Exception):
    """A sidecar ended, or did not serve in time; the text has the end of what it wrote."""


def python_process(
    arguments: list[str],
    *,
    stdout: Path,
    stderr: Path,
    environment: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start this interpreter with arguments. It ends with the tests, even if these are killed.

    The environment is the tests' own without the sidecar's settings, and with ``environment``.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MGE_")}
    with stdout.open("wb") as out, stderr.open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *arguments],
            stdin=stdin,
            stdout=out,
            stderr=err,
            env={**inherited, "PYTHONPATH": os.pathsep.join(sys.path), **(environment or {})},
            start_new_session=True,
        )


def open_channel(target: str) -> grpc.aio.Channel:
    """Return a channel with a connection of its own; the caller closes it."""
    return grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])


class Sidecar:
    """A process of ``mge-cache serve`` in a folder of its own, on a unix socket at least.

    The socket stays the same over a restart. Belongs to one event loop.
    """

    def __init__(
        self,
        folder: Path,
        *,
        redis_url: str = "memory://",
        options: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        tcp: bool = False,
        http: bool = False,
    ) -> None:
        self.folder = folder
        self.targets: tuple[str, ...] = ()
        """Where gRPC listens: the unix socket, then TCP if it was asked for."""
        self.http_address = ""
        """``host:port`` of HTTP, if it was asked for."""
        self._command = [
            *("-m", "mge_cache_server", "serve"),
            *("--unix-socket", str(folder / "s")),
            *("--listen", "127.0.0.1:0" if tcp else ""),
            *("--http-listen", "127.0.0.1:0" if http else ""),
            *("--redis-url", redis_url),
            *("--data-dir", str(folder / "data")),
            *options,
        ]
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: grpc.aio.Channel | None = None

    @property
    def target(self) -> str:
        """The unix socket, as a gRPC client writes it."""
        return f"unix:{self.folder / 's'}"

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """What the process ended with; None while it runs."""
        return None if self._process is None else self._process.poll()

    def stdout(self) -> str:
        """Return what the process has written to its standard output so far."""
        return (self.folder / "stdout").read_text(errors="replace")

    def stderr(self) -> str:
        """Return what the process has logged so far."""
        return (self.folder / "stderr").read_text(errors="replace")

    @property
    def stub(self) -> CacheServiceAsyncStub:
        """The raw stub, on one channel that ends with the sidecar."""
        if self._channel is None:
            self._channel = open_channel(self.target)
        return CacheServiceStub(self._channel)

    async def start(self) -> None:
        """Start the process and wait until its health is SERVING; raises SidecarStartError."""
        self._process = python_process(
            self._command,
            stdout=self.folder / "stdout",
            stderr=self.folder / "stderr",
            environment=self._environment,
        )
        try:
            await eventually(self._announced, within_s=START_S)
            await self._check_health()
        except (AssertionError, grpc.aio.AioRpcError) as error:
            code = self.exit_code
            self.kill()
            said = f"{self.stdout()[-2000:]}\n{self.stderr()[-4000:]}"
            raise SidecarStartError(f"exit code {code}:\n{said}") from error

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process (SIGTERM, SIGSTOP, SIGCONT, ...); wait until it stands."""
        os.kill(self.pid, number)
        if number is signal.SIGSTOP:
            # It goes on for a moment on another processor, and may answer once more.
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def kill(self) -> None:
        """End the process with SIGKILL, also if it is stopped."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def wait(self) -> int:
        """Wait for the end of the process; returns its exit code."""
        await eventually(lambda: not self.running, within_s=STOP_S)
        assert self._process is not None
        return self._process.wait()

    async def stop(self) -> int:
        """End the process with SIGTERM; returns its exit code."""
        self.send(signal.SIGTERM)
        return await self.wait()

    async def close(self) -> None:
        """Close the channel, and kill the process if it is still there."""
        if self._channel is not None:
            await self._channel.close(None)
            self._channel = None
        self.kill()

    def _announced(self) -> bool:
        if not self.running:
            raise SidecarStartError(f"exit code {self.exit_code}:\n{self.stderr()[-4000:]}")
        said = self.stdout()
        listens = re.search(r"^  gRPC   (.+)$", said, re.MULTILINE)
        store = re.search(r"^  store  .+$", said, re.MULTILINE)  # comes after all addresses
        if listens is None or store is None:
            return False
        self.targets = tuple(listens[1].split(", "))
        http = re.search(r"^  HTTP   http://(\S+)", said, re.MULTILINE)
        self.http_address = "" if http is None else http[1]
        return True

    async def _check_health(self) -> None:
        async with open_channel(self.target) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=START_S, wait_for_ready=True
            )
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


class Launch(Protocol):
    """Starts a sidecar that ends with the test; see ``Sidecar`` for the parameters."""

    async def __call__(
        self,
        redis_url: str = "memory://",
        *,
        options: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        tcp: bool = False,
        http: bool = False,
    ) -> Sidecar:
        """Return the sidecar when it serves."""


@pytest.fixture
async def launch() -> AsyncIterator[Launch]:
    """Starts sidecars, each in a folder of its own; all end with the test."""
    # Not tmp_path: the path of a unix socket has 100 characters at most.
    root = Path(tempfile.mkdtemp(prefix="mge-"))
    number = 0
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)

        async def start(
            redis_url: str = "memory://",
            *,
            options: tuple[str, ...] = (),
            environment: Mapping[str, str] | None = None,
            tcp: bool = False,
            http: bool = False,
        ) -> Sidecar:
            nonlocal number
            number += 1
            folder = root / str(number)
            folder.mkdir()
            sidecar = Sidecar(
                folder,
                redis_url=redis_url,
                options=options,
                environment=environment,
                tcp=tcp,
                http=http,
            )
            stack.push_async_callback(sidecar.close)
            await sidecar.start()
            return sidecar

        yield start
