"""Where the sidecar's time goes while it answers hits."""

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


async def profile_hits(folder: Path, redis_socket: str, *, l1: bool, duration_s: float) -> str:
    """Run a sidecar under cProfile with 32 look-ups in flight; return its top functions.

    Without ``l1``, it has no memory of its own, and Redis answers.

    The profiler slows each Python call down, so that shares count, not times. What gRPC's own
    threads do is not seen.
    """
    stats = folder / "sidecar.prof"
    options = ["--redis-url", f"unix://{redis_socket}", "--store-timeout", "5s"]
    if not l1:
        options += ["--l1-max", "0"]
    async with servers.sidecar(folder, "profiled", *options, profile=stats) as server:
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
    text.write(
        f"{run.calls:,} hits from {'L1' if l1 else 'Redis'} under cProfile, {run.per_s:,.0f}/s\n"
    )
    text.write("By the time within each function:\n")
    pstats.Stats(str(stats), stream=text).strip_dirs().sort_stats("tottime").print_stats(_TOP)
    text.write("Of the sidecar's own functions, by the time with all that they call:\n")
    own = pstats.Stats(str(stats), stream=text).sort_stats("cumulative")
    own.print_stats(r"mge_cache_server.(?!cli|app)", _TOP)
    return text.getvalue()
