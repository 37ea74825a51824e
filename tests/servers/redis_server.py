"""One Redis or Valkey process."""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

import redis

from tests.servers.binaries import find_binary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from tests.servers.tls import TlsFiles

HARNESS_USER = "harness"
HARNESS_PASSWORD = "harness"
START_S = 20.0

# Linux ends the server when the thread that started it ends, hence `_spawner`.
_DIE_WITH_PARENT = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


@functools.cache
def _spawner() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="servers")


def free_port() -> int:
    """Return a port that nobody listens on, and below those that the system gives to clients.

    So is the port 10,000 above it, on which a node of a Cluster listens, too.
    """
    for _ in range(100):
        port = random.randrange(10_240, 22_700)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


class RedisServer:
    """A server on a TCP port and a unix socket, both of which it keeps when it is restarted.

    All methods block for as long as the server takes (tens of milliseconds) and may be called from
    any thread. ``client()`` belongs to the tests: it goes by the unix socket as a user of its own,
    so that it works whatever is done to the default user's password.
    """

    def __init__(
        self,
        kind: str = "valkey9",
        *,
        password: str = "",
        options: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        tls: TlsFiles | None = None,
    ) -> None:
        self.kind = kind
        self.binary = find_binary(kind)
        self.password = password
        self.dir = Path(tempfile.mkdtemp(prefix="mge-"))  # short: it has the socket
        self.port = free_port()
        self.tls_port = free_port() if tls is not None else 0
        self._tls = tls
        self._options = dict(options or {})
        self._arguments = list(arguments)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The TCP URL, with the password."""
        return f"redis://{self._userinfo}127.0.0.1:{self.port}/0"

    @property
    def unix_path(self) -> Path:
        """The unix socket."""
        return self.dir / "s"

    @property
    def unix_url(self) -> str:
        """The URL of the unix socket, with the password."""
        return f"unix://{self._userinfo}{self.unix_path}"

    @property
    def tls_url(self) -> str:
        """The URL for TLS, with the password."""
        return f"rediss://{self._userinfo}127.0.0.1:{self.tls_port}/0"

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists (it may be paused)."""
        return self._process is not None and self._process.poll() is None

    def option(self, name: str) -> str:
        """Return what was given for a setting when the server was made."""
        return self._options[name]

    def start(self, *, wait: bool = True) -> Self:
        """Start the process and, with ``wait``, wait until it answers."""
        assert not self.running
        command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
        with (self.dir / "log").open("ab") as log:
            self._process = (
                _spawner()
                .submit(
                    subprocess.Popen[bytes],
                    [*command, self.binary, *self._arguments, *self._command_options()],
                    cwd=self.dir,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
                .result()
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Wait until the server answers commands."""
        assert self._process is not None
        deadline_s = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                log = (self.dir / "log").read_text(errors="replace")
                self.kill()
                raise RuntimeError(f"{self.kind} does not start:\n{log[-2000:]}")
            time.sleep(0.003)

    def stop(self) -> None:
        """Let the server end in good order, as an operator would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the process with SIGKILL, also if it is paused."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop the process with SIGSTOP: connections stay, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self, *, empty: bool = False, wait: bool = True) -> None:
        """Kill the process and start it again, with its data or without."""
        self.kill()
        if empty:
            shutil.rmtree(self.dir / "appendonlydir", ignore_errors=True)
        self.start(wait=wait)

    def close(self) -> None:
        """Kill the process and remove its folder."""
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def client(self) -> redis.Redis:
        """Return a client of the tests' own; close it (it is a context manager)."""
        return redis.Redis(
            unix_socket_path=str(self.unix_path),
            username=HARNESS_USER,
            password=HARNESS_PASSWORD,
            socket_timeout=5.0,
        )

    def execute(self, *command: str | bytes | int) -> object:
        """Run one command as the tests' own user."""
        with self.client() as client:
            result: object = client.execute_command(*command)
            return result

    def config_set(self, name: str, value: str) -> None:
        """Change a setting of the running server; a restart forgets it."""
        self.execute("CONFIG", "SET", name, value)

    def set_password(self, password: str) -> None:
        """Change the default user's password, and end all connections that used the old one."""
        self.config_set("requirepass", password)
        self.execute("CLIENT", "KILL", "USER", "default")
        self.password = password

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _userinfo(self) -> str:
        return f":{self.password}@" if self.password else ""

    def _command_options(self) -> list[str]:
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": str(self.unix_path),
            "unixsocketperm": "700",
            "dir": str(self.dir),
            "databases": "2",
            "save": "",
            # "no" never syncs: a write is in the kernel before its reply, which survives SIGKILL.
            "appendonly": "yes",
            "appendfsync": "no",
            "repl-diskless-sync-delay": "0",
            "enable-debug-command": "yes",
        }
        if self.password:
            options["requirepass"] = self.password
        if self._tls is not None:
            options |= {
                "tls-port": str(self.tls_port),
                "tls-ca-cert-file": str(self._tls.ca),
                "tls-cert-file": str(self._tls.cert),
                "tls-key-file": str(self._tls.key),
                "tls-auth-clients": "optional",
            }
        options |= self._options
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        words += ["--user", HARNESS_USER, "on", f">{HARNESS_PASSWORD}", "~*", "&*", "+@all"]
        return words

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _end(self, how: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None
