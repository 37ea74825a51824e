"""What doctor finds in files, without a server."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from mge_cache_server.config import Settings
from mge_cache_server.doctor import Verdict, check_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("mode", "verdict"),
    [
        (0o400, Verdict.OK),
        (0o600, Verdict.OK),
        pytest.param(0o440, Verdict.OK, id="as the kubelet makes it for an fsGroup"),
        (0o640, Verdict.OK),
        (0o660, Verdict.WARNING),
        (0o444, Verdict.WARNING),
        (0o644, Verdict.WARNING),
    ],
)
def test_modes_of_files_with_secrets(tmp_path: Path, mode: int, verdict: Verdict) -> None:
    path = tmp_path / "secret"
    path.write_text("secret")
    path.chmod(mode)
    [finding] = check_files(Settings(redis_password_file=str(path)))
    assert (finding.verdict, f"{mode:03o}" in finding.text) == (verdict, True)


@pytest.mark.parametrize(
    "field",
    [
        "redis_password_file",
        "sentinel_password_file",
        "redis_tls_key_file",
        "anthropic_api_key_file",
    ],
)
def test_each_file_with_a_secret_is_looked_at(tmp_path: Path, field: str) -> None:
    missing: dict[str, Any] = {field: str(tmp_path / "missing")}
    settings = replace(Settings(), **missing)
    [finding] = check_files(settings)
    assert finding.verdict is Verdict.PROBLEM
    assert "--" + field.replace("_", "-") in finding.text
