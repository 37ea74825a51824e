"""Fails when the SDK changes what the middleware relies on: read this before an upgrade."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import anthropic
import pytest
from anthropic import APIResponse, AsyncAPIResponse, Middleware

from mge_cache.anthropic._behind import Wire, behind
from tests.anthropic.clients import PROVIDERS, ask, call

if TYPE_CHECKING:
    from tests.anthropic.clients import Clients


class Spy(Middleware):
    """Notes what a middleware is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any]] = []
        self.responses: list[Any] = []

    def handle(self, request: Any, call_next: Any) -> Any:
        self.calls.append((request, call_next))
        self.responses.append(call_next(request))
        return self.responses[-1]

    async def handle_async(self, request: Any, call_next: Any) -> Any:
        self.calls.append((request, call_next))
        self.responses.append(await call_next(request))
        return self.responses[-1]


def test_the_hooks_signature() -> None:
    for method in (Middleware.handle, Middleware.handle_async):
        assert list(inspect.signature(method).parameters) == ["self", "request", "call_next"]
    assert inspect.iscoroutinefunction(Middleware.handle_async)


@pytest.mark.parametrize("response", [APIResponse, AsyncAPIResponse])
def test_how_a_response_is_made(response: Any) -> None:
    parameters = inspect.signature(response.__init__).parameters
    assert set(parameters) == {
        "self",
        "raw",
        "cast_to",
        "client",
        "stream",
        "stream_cls",
        "options",
        "retries_taken",
    }


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_what_a_middleware_sees(clients: Clients, provider: str, kind: str) -> None:
    outer, inner = Spy(), Spy()
    client = clients.either(kind, outer, inner, provider=provider)
    await call(client, "via_stream", ask("text"))
    await call(client, "via_create", ask("text", extra_body={"new": 1}))

    for spy in (outer, inner):
        (streamed, call_next), (whole, _) = spy.calls
        # The request as the application made it, whatever the provider makes of it.
        assert (streamed.method, streamed.url) == ("post", "/v1/messages")
        assert (streamed.stream, whole.stream) == (True, False)
        assert whole.json["new"] == 1
        assert set(whole.json) >= {"model", "max_tokens", "messages"}
        seat = behind(call_next)
        assert seat is not None
        assert seat.client is client
        assert seat.wire is (Wire.AWS if provider == "bedrock" else Wire.SSE)
        first, second = spy.responses
        assert isinstance(first, (APIResponse, AsyncAPIResponse))
        assert second.http_response.is_closed  # read before the middleware sees it


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_stream_is_not_read_before_the_middleware_sees_it(
    clients: Clients, kind: str
) -> None:
    closed: list[bool] = []

    class Looking(Spy):
        def handle(self, request: Any, call_next: Any) -> Any:
            response = call_next(request)
            closed.append(response.http_response.is_closed)
            return response

        async def handle_async(self, request: Any, call_next: Any) -> Any:
            response = await call_next(request)
            closed.append(response.http_response.is_closed)
            return response

    await call(clients.either(kind, Looking()), "via_stream", ask("text"))
    assert closed == [False]


async def test_a_chain_that_hides_its_client_is_left_alone(clients: Clients) -> None:
    class Hiding(Middleware):
        async def handle_async(self, request: Any, call_next: Any) -> Any:
            class Link:
                async def __call__(self, request: Any) -> Any:
                    return await call_next(request)

            return await inner.handle_async(request, Link())

    inner = clients.middleware()
    said = await call(clients.asynchronous(Hiding()), "header", ask("text"))
    assert said == "bypass; reason=client"


def test_the_version_that_this_was_made_for() -> None:
    major, minor, *_ = map(int, anthropic.__version__.split(".")[:2])
    assert (major, minor) >= (2, 12)
    assert major == 2, "a new major version: check docs/anthropic.md against it"
