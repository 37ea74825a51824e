"""``get_or_lead``: ``get_or_compute`` in halves, of both clients, against the sidecar itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from mge_cache import Answer, AsyncClient, Client, Hit, InvalidRequestError, PromptRequest, Timeouts
from mge_cache._leads import AsyncLead, Lead

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rpc.conftest import Serve

REQUEST = PromptRequest(model="claude-sonnet-5-5", prompt="Why?")
ANSWER = Answer.from_text("Because.", cost_usd=0.25)
PATIENT = Timeouts(get_s=20.0, set_s=20.0, slice_margin_s=20.0)


async def test_a_lead_makes_others_wait_and_gives_them_its_answer(serve: Serve) -> None:
    await serve()
    async with (
        AsyncClient(serve.target, timeouts=PATIENT) as first,
        AsyncClient(serve.target, timeouts=PATIENT) as second,
    ):
        lead = await first.get_or_lead(REQUEST, masterplan="plan")
        assert isinstance(lead, AsyncLead)
        assert lead.miss.lease is not None
        async with lead.hold():
            waiting = asyncio.create_task(second.get_or_lead(REQUEST))
            await asyncio.sleep(0)
            await lead.keep(ANSWER, compute_s=2.0)
        hit = await waiting
        assert isinstance(hit, Hit)
        assert hit.answer.text == "Because."
        await first.invalidate(masterplan="plan")
        assert isinstance(await second.get_or_lead(REQUEST), AsyncLead)


async def test_a_lead_that_keeps_nothing_hands_over(serve: Serve) -> None:
    await serve()
    async with AsyncClient(serve.target, timeouts=PATIENT) as client:
        lead = await client.get_or_lead(REQUEST)
        assert isinstance(lead, AsyncLead)
        async with lead.hold():
            waiting = asyncio.create_task(client.get_or_lead(REQUEST, wait_s=100.0))
            await asyncio.sleep(0)
        following = await asyncio.wait_for(waiting, 30.0)
        assert isinstance(following, AsyncLead)
        assert following.miss.lease is not None


async def test_a_lead_without_a_look_up_replaces_what_is_stored(serve: Serve) -> None:
    await serve()
    async with AsyncClient(serve.target, timeouts=PATIENT) as client:
        await client.set(REQUEST, ANSWER)
        lead = client.lead(REQUEST)
        async with lead.hold():  # there is no lease: nobody waits
            assert isinstance(await client.get_or_lead(REQUEST), Hit)
            await lead.keep(Answer.from_text("Therefore."), compute_s=0.0)
        hit = await client.get_or_lead(REQUEST)
        assert isinstance(hit, Hit)
        assert hit.answer.text == "Therefore."


async def test_the_same_for_threads(serve: Serve) -> None:
    await serve()

    def work() -> list[str]:
        with Client(serve.target, timeouts=PATIENT) as client:
            lead = client.get_or_lead(REQUEST)
            assert isinstance(lead, Lead)
            with lead.hold():
                lead.keep(ANSWER, compute_s=2.0)
            first = client.get_or_lead(REQUEST)
            anew = client.lead(REQUEST)
            with anew.hold():
                anew.keep(Answer.from_text("Therefore."), compute_s=0.0)
            second = client.get_or_lead(REQUEST)
            assert isinstance(first, Hit)
            assert isinstance(second, Hit)
            return [first.answer.text, second.answer.text]

    assert await asyncio.to_thread(work) == ["Because.", "Therefore."]


async def test_without_a_sidecar_a_lead_is_a_miss_and_keeps_nothing(tmp_path: Path) -> None:
    async with AsyncClient(f"unix:{tmp_path}/nobody") as client:
        lead = await client.get_or_lead(REQUEST)
        assert isinstance(lead, AsyncLead)
        assert lead.miss.degraded
        async with lead.hold():
            await lead.keep(ANSWER, compute_s=0.0)
        assert client.failures == 2


@pytest.mark.parametrize("options", [{"ttl_s": -1.0}, {"tags": "text"}])
def test_mistakes_show_before_anything_is_paid_for(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(options))):
        AsyncClient("unix:/nobody").lead(REQUEST, **options)
