"""What ``mge-cache doctor`` tries where similar queries are looked for in vector sets."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, TypeAlias

from redis.exceptions import RedisError

from mge_cache_server import redis_store_scripts as scripts
from mge_cache_server.doctor import Finding, ok, problem
from mge_cache_server.redis_store_errors import vector_sets_problem

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.cluster import RedisCluster

Trial: TypeAlias = tuple[str, scripts.Script, tuple[str, ...], tuple[Any, ...]]
"""What is tried, the script that does it, its keys, its arguments."""

_VECTOR = struct.pack("<2f", 1, 0)


def vector_trials(names: tuple[str, str], kept_ms: int) -> tuple[Trial, ...]:
    """List the scripts to be tried on a partition of the doctor's own."""
    return (
        ("store a vector", scripts.PUT_VECTOR, names, (0, 1, b"x", _VECTOR, 1, kept_ms)),
        ("tend vectors", scripts.TEND_VECTORS, names, (0, 1)),
        ("read a vector's end", scripts.END_OF_VECTOR, names[1:], (b"x",)),
        ("drop a vector", scripts.DROP_VECTOR, names, (b"x", b"1")),
    )


async def find_vector_sets(client: Redis | RedisCluster, name: str) -> Finding:
    """Ask whether the server has vector sets, and whether they can be searched."""
    try:
        await client.execute_command("VCARD", name)
        await client.execute_command("VSIM", name, "FP32", _VECTOR, "COUNT", 1)
    except RedisError as error:
        told = vector_sets_problem(error)
        if told is None:
            raise
        text, _, mend = told.partition(": ")
        return problem("vector sets", text, mend)
    return ok("vector sets", "the server has them, and this user may search them")
