"""A small index that is searched exactly, and that counts and can be made to wait or to fail."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mge_cache import Timeouts

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIMENSION = 16
# Far from any time that a busy machine takes, so that only what is tested ends a call.
PATIENT = Timeouts(get_s=20.0, set_s=20.0, slice_margin_s=20.0)
ROWS = np.random.default_rng(11).standard_normal((60, DIMENSION)).astype("f4")
ROWS /= np.linalg.norm(ROWS, axis=1, keepdims=True)


@dataclass
class Passage:
    """A document as an application may have it."""

    id: str
    text: str
    score: float
    metadata: dict[str, Any] = field(default_factory=dict)


def vector(number: int, *, cosine: float = 1.0) -> NDArray[np.float32]:
    """A unit vector near row ``number``, or with that cosine to it."""
    row = ROWS[number].astype("f8")
    other = np.roll(row, 1)
    other -= (other @ row) * row
    other /= np.linalg.norm(other)
    turned = cosine * row + np.sqrt(max(0.0, 1 - cosine**2)) * other
    return np.asarray(turned, dtype="f4")


def best(query: NDArray[np.float32], k: int) -> list[Passage]:
    """The ``k`` nearest passages."""
    cosines = ROWS @ query
    return [
        Passage(
            f"p{row}", f"text {row}", float(cosines[row]), {"row": int(row), "odd": row % 2 > 0}
        )
        for row in np.argsort(-cosines, kind="stable")[:k].tolist()
    ]


def embedding_of(passage: Passage) -> NDArray[np.float32]:
    """The embedding of a passage, as the index holds it."""
    row: NDArray[np.float32] = ROWS[int(passage.id[1:])]
    return row


class Search:
    """Searches; ``calls`` has the number of documents of each call."""

    def __init__(self, *, waits: bool = False) -> None:
        self.calls: list[int] = []
        self.error: BaseException | None = None
        self.go = threading.Event()
        self.asked = threading.Event()
        if not waits:
            self.go.set()

    def retrieve(self, query: str, embedding: Any, k: int) -> list[Passage]:
        """Search, in a thread."""
        self._note(query, k)
        assert self.go.wait(60)
        return self._found(embedding, k)

    async def aretrieve(self, query: str, embedding: Any, k: int) -> list[Passage]:
        """Search, in an event loop."""
        self._note(query, k)
        if not self.go.is_set():
            assert await asyncio.to_thread(self.go.wait, 60)
        return self._found(embedding, k)

    def _note(self, query: str, k: int) -> None:
        assert isinstance(query, str)
        self.calls.append(k)
        self.asked.set()

    def _found(self, embedding: Any, k: int) -> list[Passage]:
        if self.error is not None:
            raise self.error
        return best(np.asarray(embedding, dtype="f4"), k)
