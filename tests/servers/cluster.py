"""A Redis Cluster of three primaries."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

import redis

from tests.servers.redis_server import (
    HARNESS_PASSWORD,
    HARNESS_USER,
    START_S,
    RedisServer,
    free_port,
)

if TYPE_CHECKING:
    from types import TracebackType

_SLOTS = ((0, 5460), (5461, 10922), (10923, 16383))


class RedisCluster:
    """Three primaries that share the slots; no replicas."""

    def __init__(self, kind: str = "valkey9") -> None:
        self.nodes = [
            RedisServer(
                kind,
                options={
                    "cluster-enabled": "yes",
                    "cluster-port": str(free_port()),
                    "cluster-node-timeout": "2000",
                    "databases": "1",
                },
            )
            for _ in _SLOTS
        ]

    @property
    def url(self) -> str:
        """Where the nodes are."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> Self:
        """Start the nodes, share the slots out, and wait until all of them agree."""
        for node in self.nodes:
            node.start(wait=False)
        for number, (node, slots) in enumerate(zip(self.nodes, _SLOTS, strict=True), start=1):
            node.wait_ready()
            node.execute("CLUSTER", "SET-CONFIG-EPOCH", number)
            node.execute("CLUSTER", "ADDSLOTSRANGE", *slots)
        first, *others = self.nodes
        for node in others:
            bus_port = node.option("cluster-port")
            first.execute("CLUSTER", "MEET", "127.0.0.1", node.port, bus_port)
        deadline_s = time.monotonic() + START_S
        while not all(self._agrees(node) for node in self.nodes):
            if time.monotonic() > deadline_s:
                raise RuntimeError("the cluster does not come up")
            time.sleep(0.02)
        return self

    def client(self) -> redis.RedisCluster:
        """Return a client of the tests' own; close it (it is a context manager)."""
        return redis.RedisCluster(
            host="127.0.0.1",
            port=self.nodes[0].port,
            username=HARNESS_USER,
            password=HARNESS_PASSWORD,
        )

    def close(self) -> None:
        """Kill all nodes and remove their folders."""
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _agrees(self, node: RedisServer) -> bool:
        with node.client() as client:
            text = client.execute_command("CLUSTER INFO")
        info = text if isinstance(text, dict) else {}
        return (
            info.get("cluster_state") == "ok"
            and info.get("cluster_slots_ok") == "16384"
            and info.get("cluster_known_nodes") == "3"
        )
