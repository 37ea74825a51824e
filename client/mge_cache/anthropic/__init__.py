"""The drop-in for Anthropic's SDK: one line, and its calls are answered from the prompt cache.

``AsyncAnthropic(middleware=[PromptCacheMiddleware(masterplan="…")])``, and the same for the
synchronous client, Bedrock and Vertex. ``EnhancedAnthropicClient`` is for code that wants text for
a prompt. Needs the extra ``anthropic``.
"""

from __future__ import annotations

from mge_cache.anthropic._directions import (
    CACHE_HEADER,
    MASTERPLAN_HEADER,
    in_masterplan,
    masterplan_header,
    no_store,
    refresh,
)
from mge_cache.anthropic._enhanced import EnhancedAnthropicClient, Generation
from mge_cache.anthropic._middleware import PromptCacheMiddleware

__all__ = [
    "CACHE_HEADER",
    "MASTERPLAN_HEADER",
    "EnhancedAnthropicClient",
    "Generation",
    "PromptCacheMiddleware",
    "in_masterplan",
    "masterplan_header",
    "no_store",
    "refresh",
]
