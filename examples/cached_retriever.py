"""A retriever with a cache in front of it. It needs `make run` in another terminal, and no network.

Run it twice: the second time, nothing is retrieved.
"""

from __future__ import annotations

import math
import operator
import zlib

from mge_cache.retrieval import CachedRetriever

DIMENSION = 256
FAQ = {
    "login": "How do I log in? Choose Log in at the top right, then enter your mail address.",
    "password": "How do I change my password? Open your profile and choose Change password.",
    "invoice": "Where do I find my invoices? Invoices are listed under Billing.",
    "cancel": "How do I cancel my subscription? Under Billing, choose Cancel subscription.",
}


def embed(text: str) -> list[float]:
    """Embed a text by its words: your model does this better."""
    counts = [0.0] * DIMENSION
    for word in text.lower().replace("?", " ").replace(".", " ").split():
        counts[zlib.crc32(word.encode()) % DIMENSION] += 1.0
    length = math.hypot(*counts) or 1.0
    return [count / length for count in counts]


INDEX = {name: embed(text) for name, text in FAQ.items()}


def search(query: str, embedding: list[float], k: int) -> list[dict[str, object]]:
    """Search the index: your vector store does this."""
    print(f"  (searching for {query!r})")
    scores = {name: sum(map(operator.mul, row, embedding)) for name, row in INDEX.items()}
    best = sorted(scores, key=lambda name: -scores[name])[:k]
    return [
        {"id": name, "text": FAQ[name], "score": scores[name], "embedding": INDEX[name]}
        for name in best
    ]


def main() -> None:
    """Ask three questions; the last two need no search."""
    with CachedRetriever(
        search, embed=embed, embedding_model="words", collection="faq", k=2
    ) as retriever:
        for question in (
            "How do I change my password?",
            "How  do I change my password?",  # the same
            "how do I change my password",  # another text, and the same embedding
        ):
            found = retriever.retrieve(question)
            retriever.flush()
            print(question, "->", [document["id"] for document in found])
        print(retriever.stats)


if __name__ == "__main__":
    main()
