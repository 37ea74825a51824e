"""LangChain with both caches. It needs `make run` in another terminal, and no network.

Run it twice: the second time, neither the model nor the vector store is asked.
"""

from __future__ import annotations

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.vectorstores import InMemoryVectorStore

from mge_cache.langchain import CachedLangChainRetriever, MgeCache


def main() -> None:
    """Answer a question, with and without the caches' help."""
    # Yours are ChatAnthropic(...), your embeddings, and your vector store.
    model = FakeListChatModel(responses=["Under Billing."])
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=64))
    store.add_documents(
        [
            Document(id="invoice", page_content="Invoices are listed under Billing."),
            Document(id="login", page_content="Choose Log in at the top right."),
        ]
    )

    cache = MgeCache(masterplan="support")
    set_llm_cache(cache)
    retriever = CachedLangChainRetriever(
        source=store, embedding_model="fake", collection="faq", k=1, masterplan="support"
    )
    for _ in range(2):
        documents = retriever.invoke("Where are my invoices?")
        text = "\n".join(document.page_content for document in documents)
        answer = model.invoke(f"{text}\n\nWhere are my invoices?")
        print(answer.content, [document.id for document in documents])
    print(retriever.stats)
    retriever.close()
    cache.close()


if __name__ == "__main__":
    main()
