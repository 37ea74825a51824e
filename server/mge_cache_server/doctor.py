"""What ``mge-cache doctor`` finds, and what it looks at without asking Redis."""

from __future__ import annotations

import enum
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mge_cache_server.addresses import listen_problems
from mge_cache_server.config_parse import split_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mge_cache_server.config import Settings

_SECRET_FILES = (
    "redis_password_file",
    "sentinel_password_file",
    "redis_tls_key_file",
    "anthropic_api_key_file",
)
_TOO_OPEN = 0o037
"""Rights of others, and of the group but to read: the kubelet gives a pod's fsGroup that."""


class Verdict(enum.Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; ``mend`` says in a line what to do about it."""

    what: str
    verdict: Verdict
    text: str
    mend: str = ""


def ok(what: str, text: str) -> Finding:
    """Find nothing wrong."""
    return Finding(what, Verdict.OK, text)


def warning(what: str, text: str, mend: str) -> Finding:
    """Find something that works, but should be otherwise."""
    return Finding(what, Verdict.WARNING, text, mend)


def problem(what: str, text: str, mend: str) -> Finding:
    """Find something that does not work."""
    return Finding(what, Verdict.PROBLEM, text, mend)


def check_exposure(settings: Settings) -> Iterator[Finding]:
    """Warn of addresses that other machines can reach: there is no password on them."""
    for flag, address in (("--listen", settings.listen), ("--http-listen", settings.http_listen)):
        if address and not _is_loopback(split_address(address)[0]):
            yield warning(
                "exposure",
                f"{flag} {address} can be reached from other machines, without a password",
                f"use {flag} 127.0.0.1:{split_address(address)[1]}, or limit it by network policy",
            )


def _is_loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")


def check_addresses(settings: Settings, is_sidecar: Callable[[str], bool]) -> Iterator[Finding]:
    """Look whether the addresses are free, or answered by a sidecar (``is_sidecar(address)``)."""
    problems = listen_problems(settings)
    for flag, address, target in (
        ("--unix-socket", settings.unix_socket, f"unix:{settings.unix_socket}"),
        ("--listen", settings.listen, settings.listen),
        ("--http-listen", settings.http_listen, f"http://{settings.http_listen}"),
    ):
        if not address:
            continue
        found = next((text for text in problems if text.startswith(f"{flag} ")), "")
        if not found:
            yield ok("address", f"{flag} {address} is free")
        elif "in use" not in found:
            yield problem("address", found, f"choose another {flag}")
        elif is_sidecar(target):
            yield ok("address", f"{flag} {address}: a sidecar answers")
        else:
            yield problem("address", found, f"end that process, or choose another {flag}")


def check_files(settings: Settings) -> Iterator[Finding]:
    """Look at the files with secrets: readable by us, our group at most, and nobody else."""
    for field in _SECRET_FILES:
        path = getattr(settings, field)
        if not path:
            continue
        flag = "--" + field.replace("_", "-")
        if not os.access(path, os.R_OK):
            yield problem("file", f"{flag} {path} cannot be read", f"give uid {os.getuid()} access")
            continue
        mode = stat.S_IMODE(Path(path).stat().st_mode)
        if mode & _TOO_OPEN:
            yield warning(
                "file",
                f"{flag} {path} has mode {mode:03o}",
                f"chmod 600 {path}, or 440 with fsGroup",
            )
        else:
            yield ok("file", f"{flag} {path} has mode {mode:03o}")


def check_data_dir(settings: Settings) -> Finding:
    """Look whether the embedded Valkey could keep its data."""
    folder = Path(settings.data_dir).expanduser().absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        return problem("data", f"{existing} is not a folder", "choose another --data-dir")
    if not os.access(existing, os.W_OK | os.X_OK):
        return problem("data", f"{existing} is not writable", "choose another --data-dir")
    space = os.statvfs(existing)
    free_mib = space.f_bavail * space.f_frsize >> 20
    if free_mib < 512:  # noqa: PLR2004 (twice what the server keeps in memory)
        return warning("data", f"only {free_mib} MiB free for {folder}", "free some space")
    return ok("data", f"{folder} can be used, {free_mib:,} MiB free")


def http_answers(address: str) -> bool:
    """Whether a sidecar's HTTP port answers there. Blocks for a second at most."""
    host, port = split_address(address)
    try:
        with socket.create_connection((host, port), timeout=1.0) as connection:
            connection.sendall(f"GET /healthz HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            return connection.recv(64).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False
