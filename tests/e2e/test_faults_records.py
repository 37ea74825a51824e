"""Records that are damaged, or that a newer sidecar has written."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.e2e import faults
from tests.e2e.faults import Caller

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.sidecars import Launch
    from tests.servers.fixtures import Servers


def flip(position: int) -> Callable[[bytes], bytes]:
    """Return what flips a bit of the byte at a position."""

    def flipped(record: bytes) -> bytes:
        damaged = bytearray(record)
        damaged[position] ^= 0x10
        return bytes(damaged)

    return flipped


DAMAGES = {
    "a newer version": lambda record: bytes([record[0] + 1]) + record[1:],
    "no version": lambda record: b"\x00" + record[1:],
    "second byte": flip(1),
    "number of tags": flip(3),
    "checksum": flip(5),
    "tick": flip(12),
    "time": flip(20),
    "tokens": flip(26),
    "first text's length": flip(72),
    "answer": flip(-1),
    "cut in the answer": lambda record: record[:-1],
    "cut in the header": lambda record: record[:10],
    "one byte": lambda record: record[:1],
    "too long": lambda record: record + b"x",
    "not a record": lambda _: b"hello",
}


@pytest.mark.parametrize("kind", ["valkey9", "redis7"])
async def test_a_damaged_record_is_a_miss_and_is_dropped(
    launch: Launch, servers: Servers, key_prefix: str, kind: str
) -> None:
    # Without memory of its own, each look-up is the store's.
    options = ("--key-prefix", key_prefix, "--l1-max", "0")
    sidecar = await launch(servers.url(kind), http=True, options=options)
    caller = Caller(sidecar)
    await faults.until_connected(sidecar)
    for number, (name, damage) in enumerate(DAMAGES.items(), start=1):
        stored = await caller.set(name)
        assert stored.status == pb.SET_STATUS_STORED
        assert (await caller.get(name)).hit.answer == faults.answer_of(name)
        await asyncio.to_thread(_damage, servers, kind, key_prefix, damage)

        miss = (await caller.get(name)).miss
        assert (bool(miss.lease), miss.degraded) == (True, False), name
        assert (await caller.get(name)).miss.in_progress
        assert (await faults.scrape(sidecar)).errors("decode") == number, name
        assert faults.events(sidecar) == ["record dropped"] * number, name
        assert (await caller.set(name, lease=miss.lease)).status == pb.SET_STATUS_STORED
        assert (await caller.get(name)).hit.answer == faults.answer_of(name)
        await asyncio.to_thread(_remove_all, servers, kind, key_prefix)
    caller.check_times()
    await faults.check_no_secrets(sidecar)


def _damage(servers: Servers, kind: str, key_prefix: str, damage: Callable[[bytes], bytes]) -> None:
    with servers.client(kind) as client:
        [name] = client.scan_iter(match=f"{key_prefix}:*:e")
        record = client.get(name)
        assert isinstance(record, bytes)
        client.set(name, damage(record), keepttl=True)


def _remove_all(servers: Servers, kind: str, key_prefix: str) -> None:
    with servers.client(kind) as client:
        for name in client.scan_iter(match=f"{key_prefix}:*:e"):
            client.delete(name)


async def test_an_empty_record_is_none(launch: Launch, servers: Servers, key_prefix: str) -> None:
    options = ("--key-prefix", key_prefix, "--l1-max", "0")
    sidecar = await launch(servers.url("valkey9"), http=True, options=options)
    caller = Caller(sidecar)
    await faults.until_connected(sidecar)
    assert (await caller.set("empty")).status == pb.SET_STATUS_STORED
    await asyncio.to_thread(_damage, servers, "valkey9", key_prefix, lambda _: b"")
    miss = (await caller.get("empty")).miss
    assert (bool(miss.lease), miss.degraded) == (True, False)
    assert (await caller.set("empty", lease=miss.lease)).status == pb.SET_STATUS_STORED
    assert (await caller.get("empty")).hit.answer == faults.answer_of("empty")
