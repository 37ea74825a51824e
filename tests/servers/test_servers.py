"""What tests of faults rely on: the servers do what they are told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from tests.servers import RedisCluster, RedisSentinel, RedisServer, TlsFiles
from tests.servers.fixtures import require
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("valkey9", "redis8", "redis7")


@pytest.mark.parametrize("kind", KINDS)
def test_a_restart_keeps_the_data_or_does_not(
    own_server: Callable[..., RedisServer], kind: str
) -> None:
    server = own_server(kind)
    before = server.url
    server.execute("SET", "key", "value")
    server.restart()
    assert server.execute("GET", "key") == b"value"
    server.restart(empty=True)
    assert server.execute("GET", "key") is None
    assert server.url == before
    server.stop()
    assert not server.running


def test_a_paused_server_is_silent_until_it_goes_on(
    own_server: Callable[..., RedisServer],
) -> None:
    server = own_server()
    with redis.Redis.from_url(server.unix_url, socket_timeout=0.1, retry=None) as client:
        assert client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert client.ping()
    server.pause()
    server.kill()
    assert not server.running


def test_a_changed_password_throws_the_old_connections_out(
    own_server: Callable[..., RedisServer],
) -> None:
    server = own_server(password="first")
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
        server.set_password("second")
        with pytest.raises(redis.AuthenticationError):
            client.ping()
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_tls_is_spoken_with_a_certificate_of_the_authority(
    own_server: Callable[..., RedisServer], tls_files: TlsFiles
) -> None:
    server = own_server("redis7", tls=tls_files)
    with redis.Redis.from_url(server.tls_url, ssl_ca_certs=str(tls_files.ca)) as client:
        assert client.ping()
    with (
        redis.Redis.from_url(server.tls_url) as client,
        pytest.raises(redis.ConnectionError, match="certificate verify failed"),
    ):
        client.ping()


def test_a_replica_takes_over() -> None:
    with require(RedisSentinel) as sentinel:
        sentinel.primary.execute("SET", "key", "value")
        sentinel.primary.execute("WAIT", 1, 5000)
        sentinel.fail_over()
        assert sentinel.primary_port() == sentinel.replica.port
        assert sentinel.replica.execute("GET", "key") == b"value"


def test_a_cluster_spreads_its_keys() -> None:
    with require(RedisCluster) as cluster:
        with cluster.client() as client:
            for number in range(60):
                client.set(f"key{number}", number)
        assert all(int(str(node.execute("DBSIZE"))) > 5 for node in cluster.nodes)


@pytest.mark.skipif(sys.platform != "linux", reason="uses what only Linux has")
async def test_servers_end_with_the_tests_even_if_these_are_killed() -> None:
    program = (
        "import sys, threading\n"
        "from tests.servers import RedisServer\n"
        "server = RedisServer('valkey9')\n"
        # In a thread that is over at once, as those of asyncio.to_thread are with their loop.
        "starter = threading.Thread(target=server.start)\n"
        "starter.start()\n"
        "starter.join()\n"
        "print(server.pid, server.dir, server.execute('PING'), flush=True)\n"
        "sys.stdin.read()\n"
    )
    require(lambda: RedisServer("valkey9")).close()
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as tests:
        assert tests.stdout is not None
        pid, folder, pong = tests.stdout.readline().split()
        assert pong == "True"
        tests.kill()
    await eventually(lambda: not _runs(int(pid)))
    shutil.rmtree(folder)


def _runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
