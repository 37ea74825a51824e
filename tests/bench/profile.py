"""Where the sidecar's time goes while it answers hits from L1."""

from __future__ import annotations

import io
import pstats
from typing import TYPE_CHECKING

from tests.bench import messages, servers
from tests.bench.h2 import Connection
from tests.bench.speed import fill

if TYPE_CHECKING:
    from pathlib import Path

_TOP = 30


async def profile_l1(folder: Path, redis_socket: str, *, duration_s: float) -> str:
    """Run a sidecar under cProfile with 32 look-ups in flight; return its top functions.

    The profiler slows each Python call down, so that shares count, not times. What gRPC's own
    threads do is not seen.
    """
    stats = folder / "l1.prof"
    url = f"unix://{redis_socket}"
    async with servers.sidecar(folder, "profiled", "--redis-url", url, profile=stats) as server:
        await fill(server, messages.sets())
        connection = await Connection.open(
            server.socket,
            f"{messages.SERVICE}GetPrompt",
            messages.encoded(messages.gets()),
            min_answer_bytes=messages.ANSWER_BYTES,
        )
        run = await connection.run(in_flight=32, duration_s=duration_s)
        connection.close()
    text = io.StringIO()
    text.write(f"{run.calls:,} hits from L1 under cProfile, {run.per_s:,.0f}/s\n")
    pstats.Stats(str(stats), stream=text).strip_dirs().sort_stats("tottime").print_stats(_TOP)
    return text.getvalue()
