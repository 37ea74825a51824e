from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import grpc
import pytest

from mge_cache_server.errors import (
    InvalidRequestError,
    MgeError,
    StoreRefusedError,
    StoreUnavailableError,
)
from mge_cache_server.interceptors import REQUEST_ID, streaming, unary

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

SECRET = "qxSECRETxq"


class AbortedError(Exception):
    """What gRPC raises from ``abort``."""


class Context:
    """As much of a ServicerContext as is used."""

    def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
        self._metadata = metadata
        self.aborted: tuple[grpc.StatusCode, str] | None = None
        self.trailing: dict[str, str] = {}

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata

    async def abort(
        self, code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, str], ...]
    ) -> None:
        self.aborted = (code, details)
        self.trailing = dict(trailing)
        raise AbortedError


class Observed:
    """What was told of calls that ended."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def __call__(self, method: str, code: str, seconds: float) -> None:
        assert 0 <= seconds < 60
        self.calls.append((method, code))


async def failing(error: BaseException, context: Context, observed: Observed) -> None:
    async def handler(_: str) -> str:
        raise error

    await unary("Method", handler, observed)("request", context)


async def test_a_response_passes() -> None:
    observed, context = Observed(), Context()

    async def handler(request: str) -> str:
        return request.upper()

    assert await unary("Method", handler, observed)("request", context) == "REQUEST"
    assert observed.calls == [("Method", "OK")]
    assert context.aborted is None


@pytest.mark.parametrize(
    ("error", "code", "details"),
    [
        (InvalidRequestError("tags", "at most 64"), "INVALID_ARGUMENT", "tags: at most 64"),
        (StoreUnavailableError("no answer"), "UNAVAILABLE", "no answer"),
        (StoreRefusedError("read-only"), "UNAVAILABLE", "read-only"),
        (MgeError(SECRET), "INTERNAL", "internal error; see the sidecar's log"),
        (KeyError(SECRET), "INTERNAL", "internal error; see the sidecar's log"),
    ],
)
async def test_errors_become_statuses(error: Exception, code: str, details: str) -> None:
    observed, context = Observed(), Context()
    with pytest.raises(AbortedError):
        await failing(error, context, observed)
    assert context.aborted == (grpc.StatusCode[code], details)
    assert observed.calls == [("Method", code)]


async def test_a_callers_request_id_comes_back() -> None:
    context = Context(("x", "y"), (REQUEST_ID, "mine"))
    with pytest.raises(AbortedError):
        await failing(StoreUnavailableError("away"), context, Observed())
    assert context.trailing == {REQUEST_ID: "mine"}


@pytest.mark.parametrize("metadata", [(), ((REQUEST_ID, b"\xff"),)], ids=["none", "bytes"])
async def test_else_a_request_id_is_made(metadata: tuple[tuple[str, str | bytes], ...]) -> None:
    contexts = [Context(*metadata) for _ in range(2)]
    for context in contexts:
        with pytest.raises(AbortedError):
            await failing(StoreUnavailableError("away"), context, Observed())
    one, other = (context.trailing[REQUEST_ID] for context in contexts)
    assert one != other
    assert len(one) == 16


async def test_a_long_request_id_is_cut() -> None:
    context = Context((REQUEST_ID, "x" * 5000))
    with pytest.raises(AbortedError):
        await failing(StoreUnavailableError("away"), context, Observed())
    assert context.trailing[REQUEST_ID] == "x" * 128


async def test_a_cancelled_call_stays_cancelled() -> None:
    observed, context = Observed(), Context()
    with pytest.raises(asyncio.CancelledError):
        await failing(asyncio.CancelledError(), context, observed)
    assert observed.calls == [("Method", "CANCELLED")]
    assert context.aborted is None


async def test_defects_are_logged_with_the_id_and_requests_at_fault_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    context = Context((REQUEST_ID, "mine"))
    with pytest.raises(AbortedError):
        await failing(InvalidRequestError("tags", "at most 64"), context, Observed())
    assert not caplog.records
    with pytest.raises(AbortedError):
        await failing(KeyError("defect"), context, Observed())
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert (record.__dict__["method"], record.__dict__["id"]) == ("Method", "mine")
    assert record.exc_info


async def test_a_stream_passes_and_its_handler_is_closed_when_the_caller_leaves() -> None:
    observed, closed = Observed(), []

    async def handler(request: str) -> AsyncGenerator[str, None]:
        try:
            for letter in request:
                yield letter
        finally:
            closed.append(request)

    handle = streaming("Stream", handler, observed)
    assert [each async for each in handle("abc", Context())] == ["a", "b", "c"]
    assert observed.calls == [("Stream", "OK")]
    responses = handle("xyz", Context())
    assert await anext(aiter(responses)) == "x"
    await responses.aclose()
    assert observed.calls[1:] == [("Stream", "CANCELLED")]
    assert closed == ["abc", "xyz"]


async def test_an_error_within_a_stream_becomes_a_status() -> None:
    observed, context = Observed(), Context()

    async def handler(_: str) -> AsyncGenerator[str, None]:
        yield "first"
        raise StoreUnavailableError("away")

    responses = aiter(streaming("Stream", handler, observed)("request", context))
    assert await anext(responses) == "first"
    with pytest.raises(AbortedError):
        await anext(responses)
    assert context.aborted == (grpc.StatusCode.UNAVAILABLE, "away")
    assert observed.calls == [("Stream", "UNAVAILABLE")]
