"""The fixtures that this folder shows to work."""

from __future__ import annotations

from tests.servers.fixtures import own_server, tls_files

__all__ = ["own_server", "tls_files"]
