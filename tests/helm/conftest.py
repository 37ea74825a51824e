"""The charts with real helm: skipped where it is missing, but not in CI."""

from __future__ import annotations

import os

import pytest

from tests.helm.charts import Charts, MissingToolError, copy_charts, find_tool


@pytest.fixture(scope="session")
def charts(tmp_path_factory: pytest.TempPathFactory) -> Charts:
    """Copies of our charts, ready to render."""
    _require("helm")
    return copy_charts(tmp_path_factory.mktemp("charts"))


@pytest.fixture(scope="session")
def kubectl() -> str:
    """The path of kubectl."""
    return _require("kubectl")


def _require(name: str) -> str:
    try:
        return find_tool(name)
    except MissingToolError as missing:
        if os.environ.get("MGE_CACHE_REQUIRE_SERVERS") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
