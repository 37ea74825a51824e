"""The Valkey of the chart: its command with a real Valkey."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from tests.helm.charts import CI_VALUES, pod_of
from tests.servers.binaries import find_binary
from tests.servers.fixtures import require
from tests.servers.redis_server import free_port
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.helm.charts import Charts, Object

PASSWORD = "0123456789abcdef"


def moved(container: Object, folder: Path, port: int) -> list[str]:
    """Return the container's command with its folders and its port in another place."""
    words = [*container["command"], *container["args"]]
    places = {"/etc/valkey-password": folder, "/data": folder, "port 6379": f"port {port}"}
    for place, here in places.items():
        assert any(place in word for word in words)
        words = [word.replace(place, str(here)) for word in words]
    return words


def start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start a command that finds its program in a folder, and logs there."""
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
            stdout=log,
            stderr=log,
        )


def command_line(pid: int) -> bytes:
    """Return what others see of a process; nothing where there is no /proc."""
    file = Path(f"/proc/{pid}/cmdline")
    return file.read_bytes() if file.exists() else b""


async def test_it_wants_its_password_and_ends_at_once(charts: Charts, tmp_path: Path) -> None:
    binary = require(lambda: find_binary("valkey9"))
    [values] = [each for each in CI_VALUES if each.name == "valkey-values.yaml"]
    [container] = pod_of(charts.objects(values), "valkey")["containers"]
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    (tmp_path / "valkey-server").symlink_to(binary)
    port = free_port()
    process = start(moved(container, tmp_path, port), tmp_path)
    try:
        with redis.Redis(port=port, password=PASSWORD) as client:

            def answers() -> bool:
                try:
                    return bool(client.ping())
                except redis.ConnectionError as error:
                    raise AssertionError((tmp_path / "log").read_text()) from error

            await eventually(answers, within_s=20.0)
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "volatile-ttl"
            assert client.config_get("save")["save"] == ""
            assert client.config_get("maxmemory")["maxmemory"] == str(96 << 20)
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        assert PASSWORD.encode() not in command_line(process.pid)
        # The shell has made way: the signal reaches Valkey.
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("content", [None, "\n"], ids=["no file", "empty"])
def test_it_does_not_start_without_a_password(
    charts: Charts, tmp_path: Path, content: str | None
) -> None:
    [values] = [each for each in CI_VALUES if each.name == "valkey-values.yaml"]
    [container] = pod_of(charts.objects(values), "valkey")["containers"]
    if content is not None:
        (tmp_path / "password").write_text(content)
    (tmp_path / "valkey-server").write_text("#!/bin/sh\ntouch started\n")
    (tmp_path / "valkey-server").chmod(0o755)
    process = start(moved(container, tmp_path, free_port()), tmp_path)
    assert process.wait(timeout=20) != 0
    assert not (tmp_path / "started").exists()
