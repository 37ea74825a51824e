"""LangChain's models with ``MgeCache``: what is stored, what it saves, and what is not stored."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult, Generation
from pydantic import PrivateAttr

from mge_cache import Answer, AsyncClient, InvalidRequestError, PromptKey, Timeouts, prompt_key
from mge_cache._langchain_llm import LEASES_MAX
from mge_cache.errors import UnavailableError
from mge_cache.langchain import MgeCache
from tests.retrieval.index import PATIENT
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.sidecars import Launch

USAGE = {
    "input_tokens": 1000,
    "output_tokens": 50,
    "total_tokens": 1050,
    "input_token_details": {"cache_read": 400, "cache_creation": 100},
}
PARIS = AIMessage(
    [{"type": "text", "text": "Paris."}],
    usage_metadata=USAGE,
    response_metadata={"model_name": "claude-sonnet-4-5", "stop_reason": "end_turn"},
    tool_calls=[{"name": "look_up", "args": {"city": "Paris"}, "id": "call-1"}],
)


class Model(BaseChatModel):
    """Answers always the same, and counts."""

    answer: Any = PARIS
    name_: str = "a"
    _calls: int = PrivateAttr(default=0)

    @property
    def _llm_type(self) -> str:
        return "of the tests"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.name_}

    def _generate(self, messages: list[BaseMessage], *_: Any, **_options: Any) -> ChatResult:
        assert messages
        self._calls += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return ChatResult(generations=[ChatGeneration(message=self.answer)])


@pytest.fixture(params=["sync", "async"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def ask(model: Model, way: str, prompt: str = "The capital of France?") -> BaseMessage:
    if way == "async":
        return await model.ainvoke(prompt)
    return await asyncio.to_thread(model.invoke, prompt)


async def test_a_miss_then_hits(target: str, way: str) -> None:
    async with MgeCache(target=target, timeouts=PATIENT) as cache, AsyncClient(target) as client:
        model = Model(cache=cache)
        first, again = [await ask(model, way) for _ in range(2)]
        assert model._calls == 1
        assert type(again) is AIMessage
        assert (again.content, again.tool_calls) == (PARIS.content, PARIS.tool_calls)
        assert again.response_metadata == PARIS.response_metadata
        assert first.content == again.content
        assert again.text == "Paris."
        await ask(model, way, "The capital of Italy?")
        await ask(Model(cache=cache, name_="b"), way)
        assert model._calls == 2
        llm = (await client.stats()).layers[0]
        assert (llm.total_hits, llm.total_misses, llm.total_writes) == (1, 3, 3)
        assert llm.saved_usd == pytest.approx(llm.spent_usd / 3)
        # 500 at $3, 400 read at $0.30, 100 written at $3.75, 50 out at $15, each a million
        assert llm.saved_usd == pytest.approx((500 * 3 + 400 * 0.3 + 100 * 3.75 + 50 * 15) / 1e6)
        assert llm.unpriced_writes == 0
        assert (cache.failures, cache.uncached) == (0, {})


@pytest.fixture
def global_cache() -> Iterator[None]:
    before = get_llm_cache()
    yield
    set_llm_cache(before)


@pytest.mark.usefixtures("global_cache")
async def test_for_all_models(target: str, way: str) -> None:
    async with MgeCache(target=target, timeouts=PATIENT) as cache:
        set_llm_cache(cache)
        model = Model()
        for _ in range(3):
            await ask(model, way)
        assert model._calls == 1


async def test_errors_pass_and_are_not_stored(target: str, way: str) -> None:
    async with MgeCache(target=target, timeouts=PATIENT) as cache:
        error = RuntimeError("overloaded")
        model = Model(cache=cache, answer=error)
        with pytest.raises(RuntimeError) as caught:
            await ask(model, way)
        assert caught.value is error
        model.answer = PARIS
        await ask(model, way)
        await ask(model, way)
        assert model._calls == 2


def told(**metadata: Any) -> AIMessage:
    return AIMessage("x", response_metadata=metadata)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (told(stop_reason="max_tokens"), "incomplete"),
        (told(stop_reason="refusal"), "incomplete"),
        (told(finish_reason="length"), "incomplete"),
        (told(finish_reason="SAFETY"), "incomplete"),
        (
            AIMessage(
                "",
                invalid_tool_calls=[
                    {
                        "name": "t",
                        "args": "{",
                        "id": "1",
                        "error": None,
                        "type": "invalid_tool_call",
                    }
                ],
            ),
            "incomplete",
        ),
        (AIMessage("x", additional_kwargs={"raw": object()}), "answer"),
    ],
)
async def test_what_is_not_stored(target: str, answer: AIMessage, reason: str) -> None:
    async with MgeCache(target=target, timeouts=PATIENT) as cache:
        model = Model(cache=cache, answer=answer)
        for _ in range(2):
            assert (await model.ainvoke("q")).content == answer.content
        assert model._calls == 2
        assert cache.uncached == {reason: 2}
        assert await cache.alookup("\ud800", "m") is None
        await cache.aupdate("\ud800", "m", [Generation(text="x")])
        await cache.aupdate("p", "m", [])
        assert cache.uncached["prompt"] == 2
        assert await cache.alookup("p", "m") is None


async def test_clear_ends_its_own_answers_only(target: str, way: str) -> None:
    async with (
        MgeCache(target=target, timeouts=PATIENT, masterplan="plan", tags=["t"]) as cache,
        MgeCache(target=target, timeouts=PATIENT, tag="other") as other,
        MgeCache(target=target, timeouts=PATIENT, namespace="elsewhere") as elsewhere,
        AsyncClient(target) as client,
    ):
        answer = [Generation(text="x")]
        caches = {"a": cache, "b": other, "c": elsewhere}
        for prompt, each in caches.items():
            await each.aupdate(prompt, "m", answer)
        if way == "async":
            await cache.aclear()
        else:
            await asyncio.to_thread(cache.clear)
        found = [await each.alookup(prompt, "m") for prompt, each in caches.items()]
        assert found == [None, answer, answer]
        for target_ in ({"masterplan": "plan"}, {"tag": "t"}):
            await cache.aupdate("d", "m", answer)
            await client.invalidate(**target_)  # type: ignore[arg-type]
            assert await cache.alookup("d", "m") is None
        with pytest.raises(TypeError, match="no options"):
            await cache.aclear(masterplan="plan")
        with pytest.raises(TypeError, match="no options"):
            cache.clear(masterplan="plan")


async def test_an_answer_that_was_overtaken_is_not_stored(target: str) -> None:
    async with MgeCache(target=target, timeouts=PATIENT, masterplan="plan") as cache:
        assert await cache.alookup("p", "m") is None
        async with AsyncClient(target) as client:
            await client.invalidate(masterplan="plan")
        await cache.aupdate("p", "m", [Generation(text="old")])
        assert await cache.alookup("p", "m") is None


async def test_leases_do_not_pile_up(target: str) -> None:
    async with MgeCache(target=target, timeouts=PATIENT) as cache:
        for number in range(LEASES_MAX + 3):
            await cache.alookup(f"p{number}", "m")
        assert len(cache._leases) == LEASES_MAX


async def test_switched_off_it_is_not_there(
    target: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MgeCache(target=target, timeouts=PATIENT) as cache:
        model = Model(cache=cache)
        await ask(model, way)
        monkeypatch.setenv("MGE_V2_LLM_CACHE_ENABLED", "false")
        await ask(model, way)
        await cache.aclear()
        cache.clear()
        assert model._calls == 2
        assert not cache.enabled
        monkeypatch.delenv("MGE_V2_LLM_CACHE_ENABLED")
        await ask(model, way)
        assert model._calls == 2
    async with MgeCache(target=target, enable_v2_caching=False) as off:
        assert not off.enabled
        await ask(Model(cache=off), way)


async def test_down_and_back(launch: Launch, way: str) -> None:
    sidecar = await launch()
    timeouts = Timeouts(get_s=2.0, set_s=20.0, retry_s=0.05)
    async with MgeCache(target=sidecar.target, timeouts=timeouts) as cache:
        model = Model(cache=cache)
        await ask(model, way)
        sidecar.kill()
        for _ in range(3):
            await ask(model, way)
        assert model._calls == 4
        assert cache.failures >= 3
        with pytest.raises(UnavailableError):
            await cache.aclear()
        await sidecar.start()

        async def hits() -> bool:
            before = model._calls
            await ask(model, way)
            return model._calls == before

        await eventually(hits, within_s=30)


async def test_what_somebody_else_stored_is_not_read(target: str) -> None:
    key = prompt_key(
        namespace="default",
        model="langchain",
        temperature=None,
        prompt="p",
        parameters={"llm_string": '"m"'},
    )
    async with AsyncClient(target) as client, MgeCache(target=target, timeouts=PATIENT) as cache:
        for body in (b"x", b"mge-langchain/1\n{}", b"mge-langchain/1\n[1]", b"mge-langchain/1\n["):
            await client.set(PromptKey(key=key, model="m"), Answer(body))
            assert await cache.alookup("p", "m") is None
        assert cache.uncached == {"unreadable": 4}
        await cache.aupdate("p", "m", [Generation(text="mine")])
        assert await cache.alookup("p", "m") == [Generation(text="mine")]


def test_mistakes_show_at_once() -> None:
    with pytest.raises(InvalidRequestError, match="tags"):
        MgeCache(tags="plan")


def test_without_langchain_the_extra_is_named() -> None:
    code = "import sys; sys.modules['langchain_core'] = None; import mge_cache.langchain"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert 'pip install "mge-cache[langchain]"' in ended.stderr
