"""A certificate authority and certificates for 127.0.0.1, made with the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.servers.binaries import MissingServerError

if TYPE_CHECKING:
    from pathlib import Path

_EC_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the authority's certificate, and one for server and client with its key."""

    ca: Path
    cert: Path
    key: Path


def make_tls_files(folder: Path) -> TlsFiles:
    """Make the files in a folder; they are good for 2 days."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise MissingServerError("no openssl in PATH (apt install openssl)")
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    files = TlsFiles(ca, folder / "cert.pem", folder / "cert.key")
    base = [openssl, "req", "-x509", *_EC_KEY, "-days", "2"]
    _run([*base, "-keyout", ca_key, "-out", ca, "-subj", "/CN=mge-cache test authority"])
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost")
    issuer = ("-CA", ca, "-CAkey", ca_key, "-addext", "basicConstraints=critical,CA:FALSE")
    _run([*base, "-keyout", files.key, "-out", files.cert, *names, *issuer])
    return files


def _run(command: list[str | Path]) -> None:
    subprocess.run(command, check=True, capture_output=True)
