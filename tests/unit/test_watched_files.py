"""Files that the settings name are looked at again and again, and Prometheus hears of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from mge_cache_server.config import Settings
from mge_cache_server.metrics_files import FilesCollector
from mge_cache_server.watched_files import WatchedFiles, configured_files
from tests.servers import MissingServerError, make_tls_files
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

READABLE = "mge_cache_file_readable"
EXPIRY = "mge_cache_certificate_expiry_seconds"


def value(files: WatchedFiles, name: str, file: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(FilesCollector(files))
    return registry.get_sample_value(name, {"file": file})


def test_only_the_files_that_are_set_count() -> None:
    settings = Settings(redis_password_file="/p", prices_file="/q", redis_tls_ca_file="/ca")
    assert configured_files(settings) == {
        "redis_password": "/p",
        "redis_tls_ca": "/ca",
        "prices": "/q",
    }
    assert configured_files(Settings()) == {}


async def test_a_secret_that_goes_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "password"
    path.write_text("hunter2\n")
    files = WatchedFiles({"redis_password": str(path)})
    assert value(files, READABLE, "redis_password") is None, "nobody has looked yet"
    await files.look()
    assert value(files, READABLE, "redis_password") == 1
    path.unlink()
    for _ in range(3):
        await files.look()
    assert value(files, READABLE, "redis_password") == 0
    path.write_text("hunter3\n")
    await files.look()
    assert value(files, READABLE, "redis_password") == 1
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "redis_password: cannot be used: No such file or directory",
        "redis_password: can be used again",
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b" \n", "empty"),
        (b"-----BEGIN NOTHING-----", "no certificate in it"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "damaged certificate",
        ),
    ],
)
async def test_a_certificate_that_is_none(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "cert.pem"
    path.write_bytes(content)
    files = WatchedFiles({"redis_tls_cert": str(path)})
    await files.look()
    assert files.states["redis_tls_cert"].problem == problem
    assert value(files, READABLE, "redis_tls_cert") == 0
    assert value(files, EXPIRY, "redis_tls_cert") is None


async def test_a_folder_in_a_files_place(tmp_path: Path) -> None:
    files = WatchedFiles({"prices": str(tmp_path)})
    await files.look()
    assert value(files, READABLE, "prices") == 0


async def test_of_a_chain_the_first_counts_and_of_authorities_the_last_to_end(
    tmp_path: Path,
) -> None:
    try:
        tls = make_tls_files(tmp_path)
    except MissingServerError as missing:
        pytest.skip(str(missing))
    short, authority = tls.cert.read_text(), tls.ca.read_text()
    both = tmp_path / "both.pem"
    both.write_text(short + authority)
    files = WatchedFiles({"redis_tls_cert": str(both), "redis_tls_ca": str(both)})
    await files.look()
    first = WatchedFiles({"redis_tls_cert": str(tls.cert), "redis_tls_ca": str(tls.ca)})
    await first.look()
    assert value(files, EXPIRY, "redis_tls_cert") == value(first, EXPIRY, "redis_tls_cert")
    ends = [value(first, EXPIRY, name) or 0.0 for name in ("redis_tls_cert", "redis_tls_ca")]
    assert value(files, EXPIRY, "redis_tls_ca") == max(ends) > 0


async def test_it_looks_by_itself_until_it_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("x")
    files = WatchedFiles({"redis_password": str(path)}, every_s=0.01)
    files.start()
    await eventually(lambda: value(files, READABLE, "redis_password") == 1)
    path.unlink()
    await eventually(lambda: value(files, READABLE, "redis_password") == 0)
    await files.stop()
    path.write_text("x")
    await files.stop()
    assert value(files, READABLE, "redis_password") == 0


async def test_without_files_there_is_nothing_to_do() -> None:
    files = WatchedFiles({})
    files.start()
    await files.stop()
    assert files.states == {}
