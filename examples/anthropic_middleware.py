"""One line more, and an application's calls of Claude are answered from the cache.

Needs a sidecar (MGE_CACHE_TARGET, or `make run`) and ANTHROPIC_API_KEY.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from anthropic import AsyncAnthropic

from mge_cache.anthropic import PromptCacheMiddleware, no_store

if TYPE_CHECKING:
    from anthropic.types import Message, MessageParam

MODEL = "claude-sonnet-5-5"


def text_of(message: Message) -> str:
    """Return what a message says."""
    return "".join(block.text for block in message.content if block.type == "text")


async def main() -> None:
    """Ask the same thing three times; only the first and the last call are paid for."""
    cache = PromptCacheMiddleware(masterplan="geography")
    async with cache, AsyncAnthropic(middleware=[cache]) as client:
        question: list[MessageParam] = [
            {"role": "user", "content": "Name the capital of France in one word."}
        ]
        message = await client.messages.create(model=MODEL, max_tokens=500, messages=question)
        print("asked:   ", text_of(message), message.usage.output_tokens, "tokens")

        # As a stream, this time: the same entry answers, event by event.
        async with client.messages.stream(model=MODEL, max_tokens=500, messages=question) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            print("streamed:", text, "-", stream.response.headers["x-mge-cache"])

        fresh = await client.messages.create(
            model=MODEL, max_tokens=500, messages=question, extra_headers=no_store()
        )
        print("afresh:  ", text_of(fresh))
    print(dict(cache.counts))


if __name__ == "__main__":
    asyncio.run(main())
