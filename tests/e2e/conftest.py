"""Real servers, and sidecars as processes on them."""

from __future__ import annotations

from tests.e2e.anthropic_api import anthropic_settings
from tests.e2e.sidecars import launch
from tests.servers.fixtures import key_prefix, own_server, servers, tls_files

__all__ = ["anthropic_settings", "key_prefix", "launch", "own_server", "servers", "tls_files"]
