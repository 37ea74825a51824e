from __future__ import annotations

import asyncio

import pytest

from tests.waiting import eventually


async def test_returns_the_first_true_answer() -> None:
    answers = iter([0, None, 3, 4])
    assert await eventually(lambda: next(answers), every_s=0) == 3


async def test_awaits_the_answer() -> None:
    async def true() -> str:
        await asyncio.sleep(0)
        return "yes"

    assert await eventually(true) == "yes"


async def test_what_stays_false_fails_with_the_last_answer() -> None:
    with pytest.raises(AssertionError, match=r"still \[\] after 0 s"):
        await eventually(list, within_s=0)


async def test_an_assertion_is_repeated_until_the_end() -> None:
    asked: list[int] = []

    def condition() -> bool:
        asked.append(len(asked))
        assert len(asked) > 3, "too early"
        return True

    assert await eventually(condition, every_s=0)
    asked.clear()
    with pytest.raises(AssertionError, match="too early"):
        await eventually(condition, within_s=0)


async def test_another_error_passes_at_once() -> None:
    asked: list[int] = []

    def condition() -> bool:
        asked.append(1)
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        await eventually(condition)
    assert asked == [1]
