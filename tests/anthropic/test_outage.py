"""Without its sidecar the drop-in is not there: down, hanging, killed in mid-call, and back."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mge_cache import Timeouts
from mge_cache.anthropic import PromptCacheMiddleware
from tests.anthropic.clients import Clients, ask, call
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.anthropic.upstream import Upstream
    from tests.e2e.sidecars import Launch

KINDS = pytest.mark.parametrize("kind", ["async", "sync"])
METHODS = pytest.mark.parametrize("method", ["via_create", "via_create_stream", "via_stream"])


@KINDS
@METHODS
async def test_nobody_is_there(
    clients: Clients, upstream: Upstream, tmp_path: Path, method: str, kind: str
) -> None:
    middleware = clients.middleware(target=f"unix:{tmp_path}/nobody")
    bare, client = clients.either(kind), clients.either(kind, middleware)
    for scene in ("text", "tool_use"):
        assert (
            repr(await call(client, method, ask(scene)))[:20]
            == repr(await call(bare, method, ask(scene)))[:20]
        )
    assert upstream.calls == 4
    assert await call(client, "header", ask("text")) == "miss; degraded"
    await eventually(lambda: middleware.failures >= 3)
    assert middleware.counts == {"miss": 3}


@KINDS
@METHODS
async def test_a_sidecar_that_hangs_and_comes_back(
    clients: Clients, upstream: Upstream, launch: Launch, method: str, kind: str
) -> None:
    sidecar = await launch()
    # A deadline short enough for a test; the breaker asks one call in fifty milliseconds.
    timeouts = Timeouts(get_s=0.1, set_s=0.1, slice_margin_s=0.1, retry_s=0.05)
    middleware = clients.middleware(target=sidecar.target, timeouts=timeouts)
    client = clients.either(kind, middleware)
    await call(client, method, ask("text"))

    sidecar.send(signal.SIGSTOP)
    for number in range(2, 8):
        await call(client, method, ask("text"))
        assert upstream.calls == number
    assert middleware.failures > 0
    sidecar.send(signal.SIGCONT)

    async def hits() -> bool:
        before = upstream.calls
        await call(client, method, ask("text"))
        return upstream.calls == before

    await eventually(hits, within_s=30.0)


@KINDS
@METHODS
async def test_a_sidecar_that_is_killed_in_mid_call_and_started_again(
    clients: Clients, upstream: Upstream, launch: Launch, method: str, kind: str
) -> None:
    sidecar = await launch()
    timeouts = Timeouts(get_s=5.0, set_s=0.5, slice_margin_s=0.5, retry_s=0.05)
    middleware = clients.middleware(target=sidecar.target, timeouts=timeouts)
    client = clients.either(kind, middleware)
    leading = asyncio.create_task(call(client, method, ask("gated")))
    await eventually(lambda: upstream.calls == 1)
    following = asyncio.create_task(call(client, method, ask("gated")))
    await asyncio.sleep(0)

    sidecar.kill()
    await eventually(lambda: upstream.calls == 2)  # nobody makes the follower wait any more
    upstream.open_gate()
    first, second = await leading, await following
    assert len(repr(first)) == len(repr(second))

    await sidecar.start()

    async def hits() -> bool:
        before = upstream.calls
        await call(client, method, ask("gated"))
        return upstream.calls == before

    await eventually(hits, within_s=30.0)


async def test_failures_are_not_forgotten_with_the_connection(
    clients: Clients, upstream: Upstream, tmp_path: Path
) -> None:
    middleware = clients.middleware(target=f"unix:{tmp_path}/nobody")
    for kind in ("async", "sync"):
        await call(clients.either(kind, middleware), "via_create", ask("text"))
    await middleware.aclose()
    await asyncio.to_thread(middleware.close)
    assert middleware.failures == 4
    assert upstream.calls == 2


async def test_a_closed_middleware_connects_again(clients: Clients, upstream: Upstream) -> None:
    middleware = clients.middleware()
    client = clients.asynchronous(middleware)
    for _ in range(2):
        await client.messages.create(**ask("text"))
        await middleware.aclose()
    assert upstream.calls == 1


async def test_a_closed_client_of_the_callers(
    clients: Clients, upstream: Upstream, target: str
) -> None:
    from mge_cache import AsyncClient

    async with AsyncClient(target) as cache:
        client = clients.asynchronous(PromptCacheMiddleware(client=cache))
        await client.messages.create(**ask("text"))
    said = [await call(client, "header", ask("text")) for _ in range(2)]
    assert said == ["bypass; reason=closed"] * 2
    assert upstream.calls == 3


async def test_a_script_that_ends_at_once_has_stored_its_answer(
    clients: Clients, upstream: Upstream, target: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("caller.py")),
        upstream.base_url,
        target,
        "text",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    said, complained = await process.communicate()
    assert (process.returncode, said, complained) == (0, b"asking\nmiss end_turn\n", b"")

    said_here = await call(clients.asynchronous(clients.middleware()), "header", ask("text"))

    assert said_here.startswith("hit")
    assert upstream.calls == 1


def test_one_middleware_serves_loop_after_loop(upstream: Upstream, tmp_path: Path) -> None:
    from anthropic import AsyncAnthropic

    middleware = PromptCacheMiddleware(target=f"unix:{tmp_path}/nobody")

    async def ask_once() -> Any:
        async with AsyncAnthropic(
            api_key="made-up", base_url=upstream.base_url, middleware=[middleware]
        ) as client:
            return await client.messages.create(**ask("text"))

    for _ in range(2):
        assert asyncio.run(ask_once()).stop_reason == "end_turn"
    assert middleware.counts["miss"] == 2
    assert middleware.failures >= 2
    assert len(middleware._async_sides) == 1  # those of loops that are closed are let go
