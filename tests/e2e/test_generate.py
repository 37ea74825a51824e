"""Answers through the batcher: clients and commands, a sidecar, Anthropic's API, each a process."""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mge_cache import (
    AnswerSource,
    AsyncClient,
    CacheUse,
    Client,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidRequestError,
    PromptRequest,
    Strategy,
    Timeouts,
    UnavailableError,
)
from tests.e2e.commands import command, start
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.e2e.sidecars import Launch, Sidecar

MODEL = "claude-sonnet-5-5"
REQUEST = PromptRequest(model=MODEL, prompt="Why is the sky blue?", parameters={"max_tokens": 300})


@pytest.fixture
async def sidecar(launch: Launch, anthropic_settings: dict[str, str]) -> Sidecar:
    return await launch(options=("--batch-window", "20ms"), environment=anthropic_settings)


async def test_asked_once_then_from_the_cache(sidecar: Sidecar) -> None:
    async with AsyncClient(sidecar.target) as client:
        generation = client.generate(REQUEST, masterplan="m")
        text = "".join([delta.text async for delta in generation])
        asked = await generation.result()
        cached = await client.generate(REQUEST).result()
        anew = await client.generate(REQUEST, cache=CacheUse.BYPASS).result()
    assert asked.text == cached.text == anew.text == text
    assert text.startswith("This ")
    assert (asked.source, asked.strategy) == (AnswerSource.UPSTREAM, Strategy.FAN_OUT)
    assert asked.usage.input_tokens > 0
    assert asked.cost_usd > 0
    assert (cached.source, cached.cost_usd) == (AnswerSource.CACHE, 0.0)
    assert cached.cost_saved_usd == pytest.approx(asked.cost_usd)
    assert anew.source is AnswerSource.UPSTREAM

    def in_a_thread() -> None:
        with Client(sidecar.target) as client:
            generation = client.generate(REQUEST)
            assert [delta.text for delta in generation] == [text]
            assert generation.result().source is AnswerSource.CACHE

    await asyncio.to_thread(in_a_thread)


async def test_many_at_once_some_of_them_equal(sidecar: Sidecar) -> None:
    prompts = [f"What is the number {number % 20}?" for number in range(60)]
    requests = [replace(REQUEST, prompt=prompt) for prompt in prompts]
    async with AsyncClient(sidecar.target) as client:
        ends = [end async for end in client.generate_many(requests)]
        stats = await client.stats()
    assert sorted(end.index for end in ends) == list(range(60))
    texts = {end.request.prompt: end.result().text for end in ends}
    assert all(end.result().text == texts[end.request.prompt] for end in ends)
    sources = [end.result().source for end in ends]
    assert sources.count(AnswerSource.UPSTREAM) == 20
    assert stats.batcher.upstream_calls["ok"] == 20
    assert stats.batcher.requests == 20
    assert stats.layers[0].computed_s > 0


async def test_what_is_refused_ends_its_request_only(sidecar: Sidecar) -> None:
    unknown = replace(REQUEST, model="unheard-of")
    tools = replace(REQUEST, parameters={"tools": []})
    async with AsyncClient(sidecar.target) as client:
        good = client.generate(REQUEST)
        with pytest.raises(InvalidRequestError):  # Anthropic's word
            await client.generate(unknown).result()
        with pytest.raises(InvalidRequestError) as caught:
            await client.generate(tools).result()
        assert caught.value.field == "identity.parameters[tools]"
        assert (await good.result()).text


async def test_no_key(launch: Launch) -> None:
    sidecar = await launch(environment={"ANTHROPIC_API_KEY": ""})
    async with AsyncClient(sidecar.target) as client:
        with pytest.raises(FailedPreconditionError, match="no key to Anthropic"):
            await client.generate(REQUEST).result()
    refused = await command("generate", "-m", MODEL, "SECRET", target=sidecar)
    assert refused.code == 4
    assert "no key to Anthropic" in refused.err
    assert "SECRET" not in refused.err


async def test_a_stopped_sidecar_costs_the_deadline_and_a_killed_one_nothing(
    sidecar: Sidecar,
) -> None:
    async with AsyncClient(sidecar.target, timeouts=Timeouts(generate_margin_s=0.1)) as client:
        await client.generate(REQUEST).result()
        sidecar.send(signal.SIGSTOP)
        with pytest.raises(DeadlineExceededError):
            await client.generate(REQUEST, timeout_s=0.1).result()
        waiting = client.generate(REQUEST, timeout_s=60)
        sidecar.kill()
        with pytest.raises(UnavailableError):
            await waiting.result()
        await sidecar.start()

        async def answered() -> str:
            try:
                return (await client.generate(REQUEST, timeout_s=30).result()).text
            except UnavailableError:
                return ""

        assert await eventually(answered, within_s=30)


async def test_an_idle_stream_does_not_keep_a_sidecar_from_ending(sidecar: Sidecar) -> None:
    async with AsyncClient(sidecar.target) as client:
        await client.generate(REQUEST).result()
        assert await sidecar.stop() == 0
        with pytest.raises(UnavailableError):
            await client.generate(REQUEST).result()


async def test_callers_who_go_away_leave_the_batch(
    launch: Launch, anthropic_settings: dict[str, str]
) -> None:
    options = ("--batch-window", "60s")
    sidecar = await launch(options=options, environment=anthropic_settings)
    async with AsyncClient(sidecar.target) as client:

        async def queued() -> int:
            return (await client.stats()).batcher.queued

        async def one_waits() -> bool:
            return await queued() == 1

        async def nobody_waits() -> bool:
            return await queued() == 0

        process = await start("generate", "-m", MODEL, "Why?", target=sidecar)
        await eventually(one_waits, within_s=30)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert (process.returncode, out, err.strip()) == (130, b"", b"")
        await eventually(nobody_waits, within_s=10)
        async with client.generate(REQUEST):
            await eventually(one_waits, within_s=10)
        await eventually(nobody_waits, within_s=10)
        lost = [client.generate(REQUEST)]
        await eventually(one_waits, within_s=10)
        lost.clear()
        await eventually(nobody_waits, within_s=10)


async def test_commands(sidecar: Sidecar) -> None:
    options = ("generate", "-m", MODEL, "--max-tokens", "900", "-s", "Be brief.")
    printed = await command(*options, "Why is the sky blue?", target=sidecar)
    assert printed.code == 0
    assert printed.err.startswith("mge-cache: upstream, ")
    again = await command(*options, "--json", stdin=b"Why is the sky blue?", target=sidecar)
    assert (again.json["text"], again.json["source"]) == (printed.out, "cache")
    lines = b"".join(b'{"prompt": "What is %d?"}\n' % number for number in range(5))
    many = await command(*options, "--file", "-", stdin=lines, target=sidecar)
    assert many.code == 0
    ends = [json.loads(line) for line in many.out.splitlines()]
    assert sorted(end["line"] for end in ends) == [1, 2, 3, 4, 5]
    assert {end["source"] for end in ends} == {"upstream"}
    figures = (await command("stats", "--json", target=sidecar)).json
    assert figures["success"]["hit_rate"]["value"] == pytest.approx(1 / 7)
    assert figures["success"]["cost_reduction"]["value"] > 0
    assert figures["batcher"]["requests"] == 6
    assert figures["batcher"]["has_key"]
