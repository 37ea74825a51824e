"""Real servers, and sidecars as processes on them."""

from __future__ import annotations

from tests.e2e.sidecars import launch
from tests.servers.fixtures import own_server, tls_files

__all__ = ["launch", "own_server", "tls_files"]
