"""One call in a process of its own: ``caller.py BASE_URL TARGET SCENE``; says what it got."""

from __future__ import annotations

import asyncio
import sys

from anthropic import AsyncAnthropic

from mge_cache.anthropic import PromptCacheMiddleware
from tests.anthropic.clients import PATIENT, ask


async def main(base_url: str, target: str, scene: str) -> None:
    """Ask, as a stream, and leave at once: nothing is closed."""
    middleware = PromptCacheMiddleware(target=target, timeouts=PATIENT)
    client = AsyncAnthropic(api_key="made-up", base_url=base_url, middleware=[middleware])
    print("asking", flush=True)
    async with client.messages.stream(**ask(scene)) as stream:
        message = await stream.get_final_message()
        print(stream.response.headers["x-mge-cache"], message.stop_reason, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
