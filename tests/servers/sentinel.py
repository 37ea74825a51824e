"""A primary and a replica that sentinels watch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

import redis

from tests.servers.redis_server import START_S, RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

SERVICE = "cache"


class RedisSentinel:
    """One primary, one replica, and sentinels; any one of these may decide alone.

    A primary that does not answer for ``down_after_s`` is replaced.
    """

    def __init__(
        self, kind: str = "valkey9", *, sentinels: int = 1, down_after_s: float = 0.5
    ) -> None:
        self.primary = RedisServer(kind)
        self.replica = RedisServer(
            kind, arguments=["--replicaof", "127.0.0.1", str(self.primary.port)]
        )
        self.sentinels = [
            RedisServer(kind, arguments=["sentinel.conf", "--sentinel"]) for _ in range(sentinels)
        ]
        self._down_after_s = down_after_s

    @property
    def url(self) -> str:
        """Where the sentinels are and what the primary is called."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    def start(self) -> Self:
        """Start all, and wait until the sentinels know a primary and a replica that is in sync."""
        self.primary.start(wait=False)
        self.replica.start(wait=False)
        self.primary.wait_ready()
        self.replica.wait_ready()
        _wait_until(self._replicating)
        for sentinel in self.sentinels:
            (sentinel.dir / "sentinel.conf").write_text(self._configuration())
            sentinel.start()
        _wait_until(self._watched)
        return self

    def primary_port(self) -> int:
        """Return the port of what the first sentinel takes for the primary."""
        with self.sentinels[0].client() as client:
            _, port = client.sentinel_get_master_addr_by_name(SERVICE)
            return int(port)

    def fail_over(self) -> None:
        """Have the replica promoted (in good order), and wait until it is the primary."""
        before = self.primary_port()
        _wait_until(self._begins_failover)
        _wait_until(lambda: self.primary_port() != before)

    def close(self) -> None:
        """Kill all processes and remove their folders."""
        for server in (*self.sentinels, self.replica, self.primary):
            server.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _configuration(self) -> str:
        return (
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.primary.port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} {round(self._down_after_s * 1000)}\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )

    def _begins_failover(self) -> bool:
        try:
            self.sentinels[0].execute("SENTINEL", "FAILOVER", SERVICE)
        except redis.ResponseError as error:
            if "NOGOODSLAVE" in str(error):  # the sentinel has not looked at the replica yet
                return False
            raise
        return True

    def _replicating(self) -> bool:
        with self.replica.client() as client:
            return bool(client.info("replication")["master_link_status"] == "up")

    def _watched(self) -> bool:
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                try:
                    state = client.sentinel_master(SERVICE)
                except redis.ResponseError:
                    return False
                if state["num-slaves"] != 1 or not state["is_master"] or state["is_sdown"]:
                    return False
        return True


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise RuntimeError("the sentinels or their servers do not come up")
        time.sleep(0.01)
