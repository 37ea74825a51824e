"""``Generate``: what a caller may write into JSON, and whom it must not harm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from tests.rpc.talk import FOREVER, Talk, identity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.scripted_upstream import ScriptedUpstream

    Generating = Callable[..., Awaitable[CacheServiceAsyncStub]]

INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param('[{"role": "user", "content": NaN}]', id="NaN"),
        pytest.param('[{"role": "user", "content": -Infinity}]', id="infinity"),
        pytest.param('[{"role": "user", "content": 1e999}]', id="too large for a float"),
        pytest.param('[{"role": "user", "content": "\\ud800"}]', id="half a character"),
        pytest.param('[{"\\udfff": "user"}]', id="half a character as a name"),
        pytest.param("[" * 500 + "]" * 500, id="deep"),
        pytest.param("[" * 100_000 + "]" * 100_000, id="deeper than a parser goes"),
    ],
)
async def test_what_cannot_be_sent_harms_nobody_else(
    generating: Generating, upstream: ScriptedUpstream, messages: str
) -> None:
    talk = Talk(await generating(**FOREVER, batch_max=2))
    await talk.start("bad", identity=identity("", messages=messages))
    await talk.start("good")
    await talk.start("fine")

    refusal = await talk.error("bad")

    assert refusal.code == INVALID
    assert "messages" in refusal.message
    for call in (await upstream.batch(2)).values():
        call.answer("yes")
    assert (await talk.ends(2)).keys() == {"good", "fine"}


@pytest.mark.parametrize("tokens", ["0", "true", "1.5", '"9"', "9" * 400])
async def test_max_tokens_is_a_number_that_a_model_could_have(
    generating: Generating, tokens: str
) -> None:
    talk = Talk(await generating())
    await talk.start("a", identity=identity("prompt", max_tokens=tokens))
    refusal = await talk.error("a")
    assert (refusal.code, "max_tokens" in refusal.message) == (INVALID, True)


@pytest.mark.parametrize("key", ["sk-café", "sk-first\nsk-second"])
async def test_a_key_that_is_none_is_told_as_such(generating: Generating, key: str) -> None:
    talk = Talk(await generating(anthropic_api_key=key))
    await talk.start("a")
    refusal = await talk.error("a")
    assert refusal.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert "printable" in refusal.message
    assert "sk-" not in refusal.message
