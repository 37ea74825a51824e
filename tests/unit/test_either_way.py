"""Sources of every kind, called from threads and from event loops."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mge_cache._either_way import EitherWay

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("retrieve", "search")
WHERE = contextvars.ContextVar("WHERE", default="nowhere")


def plain(query: str, k: int) -> tuple[str, int]:
    return query, k


async def waiting(query: str, k: int) -> tuple[str, int]:
    await asyncio.sleep(0)
    return query, k


class HasSearch:
    def search(self, query: str, k: int) -> tuple[str, int]:
        return query, k


class HasBoth:
    def retrieve(self, query: str, k: int) -> tuple[str, int, str]:
        return query, k, "sync"

    async def aretrieve(self, query: str, k: int) -> tuple[str, int, str]:
        return query, k, "async"


class AsyncMethod:
    async def retrieve(self, query: str, k: int) -> tuple[str, int]:
        return await waiting(query, k)


class Callable:
    async def __call__(self, query: str, k: int) -> tuple[str, int]:
        return await waiting(query, k)


GIVEN = [
    plain,
    waiting,
    functools.partial(plain),
    functools.partial(waiting),
    lambda query, k: waiting(query, k),  # noqa: PLW0108 - it is no coroutine function
    HasSearch(),
    AsyncMethod(),
    Callable(),
    HasBoth(),
]


@pytest.fixture
def closing() -> Iterator[list[EitherWay]]:
    made: list[EitherWay] = []
    yield made
    for each in made:
        each.close()


@pytest.mark.parametrize("given", GIVEN, ids=lambda given: type(given).__name__)
def test_every_kind_from_everywhere(given: Any, closing: list[EitherWay]) -> None:
    source = EitherWay(given, names=NAMES, what="source")
    closing.append(source)
    source.check("", 1, what="(query, k)")
    for _ in range(2):
        assert source.call("q", 3)[:2] == ("q", 3)
        assert asyncio.run(source.acall("q", 3))[:2] == ("q", 3)
    with pytest.raises(TypeError, match="query"):
        source.check("", 1, 2, what="(query, k)")
    assert not source.takes("filter", "", 1)


def test_the_fitting_method_is_called(closing: list[EitherWay]) -> None:
    source = EitherWay(HasBoth(), names=NAMES, what="source")
    closing.append(source)
    assert source.call("q", 1)[2] == "sync"
    assert asyncio.run(source.acall("q", 1))[2] == "async"


def test_a_sync_caller_s_loop_is_always_the_same(closing: list[EitherWay]) -> None:
    async def loop() -> tuple[asyncio.AbstractEventLoop, str]:
        return asyncio.get_running_loop(), WHERE.get()

    source = EitherWay(loop, names=NAMES, what="source")
    closing.append(source)
    WHERE.set("here")
    (first, where), (second, _) = source.call(), source.call()
    assert first is second
    assert where == "here"

    async def inside() -> None:
        assert source.call()[0] is first

    asyncio.run(inside())
    source.close()
    assert first.is_closed()


def test_a_sync_source_does_not_block_the_loop() -> None:
    def thread() -> tuple[int, str]:
        return threading.get_ident(), WHERE.get()

    async def run() -> tuple[int, str]:
        WHERE.set("there")
        found: tuple[int, str] = await EitherWay(thread, names=NAMES, what="source").acall()
        return found

    ident, where = asyncio.run(run())
    assert ident != threading.get_ident()
    assert where == "there"


def test_errors_pass(closing: list[EitherWay]) -> None:
    error = KeyError("k")

    async def fails() -> None:
        raise error

    source = EitherWay(fails, names=NAMES, what="source")
    closing.append(source)
    with pytest.raises(KeyError) as caught:
        source.call()
    assert caught.value is error


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="source must be callable or have one of the methods "):
        EitherWay(object(), names=NAMES, what="source")


def test_keywords() -> None:
    def one(query: str, *, filter: object = None) -> tuple[str, object]:  # noqa: A002
        return query, filter

    source = EitherWay(one, names=NAMES, what="source")
    assert source.takes("filter", "")
    assert source.call("q", filter=1) == ("q", 1)
