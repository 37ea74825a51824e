"""The application of the tests' pod: asks the sidecar, and writes a line of JSON for each answer.

It asks the same question again and again; with ``FILL_BYTES`` in the environment it stores answers
of that size instead, each another one, until the sidecar's memory is full.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from mge_cache import Answer, AsyncClient, PromptRequest

_PAUSE_S = 0.1


async def main() -> None:
    """Ask until it is ended."""
    fill_bytes = int(os.environ.get("FILL_BYTES", "0"))
    number = 0

    async def compute() -> Answer:
        return Answer(os.urandom(fill_bytes) or b"text", cost_usd=0.01)

    async with AsyncClient() as client:
        while True:
            number += 1
            question = f"question {number}" if fill_bytes else "question"
            started = time.monotonic()
            answer = await client.get_or_compute(
                PromptRequest(model="m", prompt=question), compute, wait_s=2.0
            )
            line = {
                "number": number,
                "source": answer.source.name,
                "seconds": round(time.monotonic() - started, 4),
            }
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
            await asyncio.sleep(0 if fill_bytes else _PAUSE_S)


if __name__ == "__main__":
    asyncio.run(main())
