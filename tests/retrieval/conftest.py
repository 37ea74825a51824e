"""Sidecars in this process and as processes, and a small index to retrieve from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.sidecars import launch
from tests.rpc.conftest import serve, store_settings
from tests.servers.fixtures import key_prefix, servers

if TYPE_CHECKING:
    from typing import Any

    from tests.rpc.conftest import Serve

__all__ = ["key_prefix", "launch", "serve", "servers", "store_settings"]


@pytest.fixture
async def target(serve: Serve, store_settings: dict[str, Any]) -> str:
    """Where a sidecar on each kind of store listens."""
    await serve(**store_settings)
    return serve.target
