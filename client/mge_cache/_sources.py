"""What a ``CachedRetriever`` can be put in front of, for the type checker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar

D = TypeVar("D")
D_co = TypeVar("D_co", covariant=True)


class HasRetrieve(Protocol[D_co]):
    """Has a method ``retrieve``, sync or async."""

    def retrieve(
        self, query: str, embedding: Any, k: int, /
    ) -> Iterable[D_co] | Awaitable[Iterable[D_co]]: ...


class HasSearch(Protocol[D_co]):
    """Has a method ``search``, sync or async."""

    def search(
        self, query: str, embedding: Any, k: int, /
    ) -> Iterable[D_co] | Awaitable[Iterable[D_co]]: ...


class HasARetrieve(Protocol[D_co]):
    """Has an async method ``aretrieve``."""

    def aretrieve(self, query: str, embedding: Any, k: int, /) -> Awaitable[Iterable[D_co]]: ...


class HasASearch(Protocol[D_co]):
    """Has an async method ``asearch``."""

    def asearch(self, query: str, embedding: Any, k: int, /) -> Awaitable[Iterable[D_co]]: ...


Source = (
    Callable[[str, Any, int], Iterable[D] | Awaitable[Iterable[D]]]
    | HasRetrieve[D]
    | HasSearch[D]
    | HasARetrieve[D]
    | HasASearch[D]
)
