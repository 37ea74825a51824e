"""Text for a prompt, from the cache if it is there; the masterplan says what to forget later.

Needs a sidecar (MGE_CACHE_TARGET, or `make run`) and ANTHROPIC_API_KEY.
"""

from __future__ import annotations

import asyncio

from mge_cache import AsyncClient
from mge_cache.anthropic import EnhancedAnthropicClient

MODEL = "claude-sonnet-5-5"


async def main() -> None:
    """Ask twice, forget the masterplan, and ask again."""
    async with EnhancedAnthropicClient(enable_v2_caching=True) as client, AsyncClient() as cache:
        for step in ("first", "second", "after the masterplan was forgotten"):
            if step.startswith("after"):
                await cache.invalidate(masterplan="plan-7")
            answer = await client.generate_with_caching(
                "Plan a day in Rome in five steps.",
                model=MODEL,
                masterplan_id="plan-7",
                max_tokens=800,
                system="You plan journeys.",
            )
            print(f"{step}: cached={answer.cached}, {answer.usage.output_tokens} tokens")


if __name__ == "__main__":
    asyncio.run(main())
