"""The drop-ins for LangChain; ``pip install "mge-cache[langchain]"``.

set_llm_cache(MgeCache())

retriever = CachedLangChainRetriever(source=store, embedding_model="minilm", collection="faq")
"""

from __future__ import annotations

try:
    import langchain_core
except ImportError as exc:
    raise ImportError('LangChain is missing: pip install "mge-cache[langchain]"') from exc

from mge_cache._langchain_llm import MgeCache
from mge_cache._langchain_retriever import CachedLangChainRetriever

del langchain_core

__all__ = ["CachedLangChainRetriever", "MgeCache"]
