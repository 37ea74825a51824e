"""Settings that are secrets or name their files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mge_cache_server.config import load_settings
from tests.unit.test_config import problems

if TYPE_CHECKING:
    from pathlib import Path


def test_files_of_tls_and_passwords(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    path = str(file)
    tls = {"redis_url": "rediss://h", "redis_tls_ca_file": path}
    assert load_settings(tls, {}).redis_tls_ca_file == path
    [plain] = problems({"redis_url": "redis://h", "redis_tls_ca_file": path})
    assert plain == "--redis-tls-ca-file: needs TLS (rediss://) in --redis-url"
    [alone] = problems(tls | {"redis_tls_cert_file": path})
    assert alone.endswith("each needs the other")
    sentinel = {"redis_url": "redis+sentinel://h/s", "sentinel_password_file": path}
    assert load_settings(sentinel, {}).sentinel_password_file == path
    [none] = problems({"redis_url": "redis://h", "sentinel_password_file": path})
    assert none.startswith("--sentinel-password-file: needs redis+sentinel://")
    [both] = problems(
        {"redis_url": "redis://h", "redis_password_file": path},
        {"MGE_CACHE_REDIS_PASSWORD": "pw"},
    )
    assert both.endswith("only one of them can be set")


def test_no_secret_is_shown() -> None:
    environ = {
        "MGE_CACHE_REDIS_PASSWORD": "hunter2",
        "MGE_CACHE_REDIS_URL": "redis://me:hunter2@host:6379/0",
    }
    settings = load_settings({}, environ)
    assert settings.redis_password == "hunter2"
    assert "hunter2" not in repr(settings)
    assert "redis://me:***@host:6379/0" in repr(settings)


@pytest.mark.parametrize(
    "environ",
    [
        {"MGE_CACHE_REDIS_PASSWORD": "hunter2\n", "MGE_CACHE_REDIS_URL": "redis://h"},
        {"MGE_CACHE_REDIS_URL": "redis://me:hunter2@host:port"},
        {"MGE_CACHE_REDIS_URL": "redis://me:hunter2@host\n"},
        {"MGE_CACHE_REDIS_URL": "http://hunter2@h"},
    ],
)
def test_no_secret_is_in_a_message(environ: dict[str, str]) -> None:
    assert "hunter2" not in "\n".join(problems(environ=environ))
