"""``mge-cache generate``, ``fetch`` and ``stats``, against a sidecar that shows all."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache_server.cli.main import run
from tests.rpc.generate_double import GenerateDouble, echo
from tests.rpc.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.rpc.generate_double import Talk

SUMMARY = "mge-cache: upstream, 7 + 3 tokens, $0.000000\n"


@pytest.fixture
async def double() -> AsyncIterator[GenerateDouble]:
    sidecar = GenerateDouble()
    sidecar.answer = echo
    yield sidecar
    await sidecar.stop()


@pytest.fixture
async def terminal(
    double: GenerateDouble,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Terminal:
    return Terminal(await double.start("127.0.0.1:0"), tmp_path, monkeypatch, capsys)


async def test_the_answer_is_stdout_and_what_it_took_is_stderr(terminal: Terminal) -> None:
    assert await terminal("generate", "-m", "m", "Why so?") == (0, "Why so?", SUMMARY)


@pytest.mark.parametrize("arguments", [(), ("-",)])
async def test_stdin(terminal: Terminal, arguments: tuple[str, ...]) -> None:
    given = await terminal("generate", "-m", "m", *arguments, stdin="Größe\n".encode())
    assert given == (0, "Größe\n", SUMMARY)
    code, _, err = await terminal("generate", "-m", "m", *arguments, stdin=b"\xff")
    assert (code, "the prompt is not UTF-8" in err) == (2, True)


async def test_what_is_asked(double: GenerateDouble, terminal: Terminal) -> None:
    options = (
        *("-n", "plans", "-m", "m", "-s", "Be brief.", "--max-tokens", "9", "-t", "0.5"),
        *("-p", "top_k=5", "--strategy", "merge", "--cache", "bypass", "--masterplan", "p"),
        *("--tag", "a", "--tag", "b", "--ttl", "1h", "--timeout", "90s", "--id", "mine"),
    )
    assert (await terminal("generate", *options, "Why?"))[0] == 0
    asked = double.talk.requests[0].start
    assert asked.id == "mine"
    assert asked.identity == pb.PromptIdentity(
        namespace="plans",
        model="m",
        temperature=0.5,
        prompt="Why?",
        parameters={"system": '"Be brief."', "max_tokens": "9", "top_k": "5"},
    )
    assert (asked.strategy, asked.cache) == (pb.STRATEGY_MERGE, pb.CACHE_USE_BYPASS)
    assert (asked.masterplan, list(asked.tags)) == ("p", ["a", "b"])
    assert (asked.ttl.seconds, asked.timeout.seconds) == (3600, 90)


async def test_json(double: GenerateDouble, terminal: Terminal) -> None:
    async def answer(talk: Talk, request: pb.GenerateRequest) -> None:
        await talk.delta(request.start.id, "wrong")
        await talk.restart(request.start.id)
        await talk.complete(
            *(request.start.id, "Größe"),
            stop_reason="max_tokens",
            batch_size=3,
            strategy=pb.STRATEGY_MERGE,
            cost_usd=0.5,
        )

    double.answer = answer
    code, out, err = await terminal("generate", "-m", "m", "--id", "r", "--json", "Why?")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "text": "Größe",
        "stop_reason": "max_tokens",
        "usage": {
            "input_tokens": 7,
            "output_tokens": 3,
            "cache_read_tokens": 0,
            "cache_write_tokens": 0,
        },
        "cost_usd": 0.5,
        "cost_saved_usd": 0.0,
        "source": "upstream",
        "batch_size": 3,
        "strategy": "merge",
        "degraded": False,
        "request_id": "r",
    }
    assert "Größe" in out


async def test_a_summary_that_says_all(double: GenerateDouble, terminal: Terminal) -> None:
    async def answer(talk: Talk, request: pb.GenerateRequest) -> None:
        await talk.complete(
            *(request.start.id, "x"),
            stop_reason="max_tokens",
            batch_size=3,
            strategy=pb.STRATEGY_MERGE,
            cost_saved_usd=0.25,
            degraded=True,
        )

    double.answer = answer
    _, _, err = await terminal("generate", "-m", "m", "Why?")
    assert err == (
        "mge-cache: upstream, 7 + 3 tokens, $0.000000, saved $0.250000, batch of 3 (merge), "
        "stopped by max_tokens, degraded: the sidecar cannot ask its store\n"
    )


async def test_void_text_in_a_pipe_is_told(
    double: GenerateDouble, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = asyncio.Event()
    loop, write = asyncio.get_running_loop(), sys.stdout.write

    def watched(text: str) -> int:
        if text == "wrong":
            loop.call_soon_threadsafe(written.set)
        return write(text)

    async def answer(talk: Talk, request: pb.GenerateRequest) -> None:
        await talk.delta(request.start.id, "wrong")
        await written.wait()
        await talk.restart(request.start.id)
        await talk.complete(request.start.id, "right")

    double.answer = answer
    monkeypatch.setattr(sys.stdout, "write", watched)
    code, out, err = await terminal("generate", "-m", "m", "Why?")
    assert (code, out) == (1, "wrong\nright")
    assert "the text so far is void" in err
    assert "use --json" in err


@pytest.mark.parametrize(
    ("code", "exit_code", "told"),
    [
        (3, 4, "refused: model: unheard of"),
        (4, 3, "no answer from"),
        (8, 4, "model: unheard of; repeat it in 7 s"),
        (9, 4, "refused: FAILED_PRECONDITION"),
        (13, 4, "refused: INTERNAL"),
        (14, 3, "no answer from"),
    ],
)
async def test_errors(
    double: GenerateDouble, terminal: Terminal, code: int, exit_code: int, told: str
) -> None:
    async def answer(talk: Talk, request: pb.GenerateRequest) -> None:
        await talk.error(request.start.id, code, "model: unheard of", retry_after_s=7)

    double.answer = answer
    exited, out, err = await terminal("generate", "-m", "m", "SECRET")
    assert (exited, out) == (exit_code, "")
    assert told in err
    assert "SECRET" not in err


def test_no_sidecar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = f"unix:{tmp_path}/nobody"
    assert run(["generate", "-m", "m", "Why?", "--target", target]) == 3
    assert run(["fetch", "x", "--target", target]) == 3
    (tmp_path / "lines").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    capsys.readouterr()
    lines = str(tmp_path / "lines")
    assert run(["generate", "-m", "m", "--file", lines, "--target", target]) == 3
    out, err = capsys.readouterr()
    assert sorted(json.loads(line)["line"] for line in out.splitlines()) == [1, 2]
    assert all(json.loads(line)["error"]["code"] == "UNAVAILABLE" for line in out.splitlines())
    assert err.endswith("mge-cache: 2 failed\n")


async def test_wrong_usage(double: GenerateDouble, terminal: Terminal) -> None:
    terminal.file("lines", b"{}")
    for arguments, told in (
        (["Why?"], "Missing option '-m'"),
        (["-m", "m", "-p", "x", "Why?"], "--parameter is written NAME=JSON"),
        (["-m", "m", "-p", "x=y", "Why?"], "--parameter x: not JSON"),
        (["-m", "m", "-p", 'system="a"', "-s", "b", "Why?"], "given by its own option too"),
        (["-m", "m", "--timeout", "0s", "Why?"], "timeout_s: must be positive"),
        (["-m", "m", "--timeout", "x", "Why?"], "Invalid value for '--timeout'"),
        (["-m", "m", "--id", "a\n", "Why?"], "request_id: must not contain"),
        (["-m", "m", "-t", "-1", "Why?"], "temperature"),
        (["-m", "m", "--strategy", "x", "Why?"], "Invalid value for '--strategy'"),
        (["--file", "lines", "Why?"], "--file stands for a prompt"),
        (["--file", "lines", "-p", "x"], "--parameter is written NAME=JSON"),
    ):
        code, out, err = await terminal("generate", *arguments)
        assert (code, out, told in err) == (2, "", True), err
    assert not double.ids


async def test_a_file_of_requests(double: GenerateDouble, terminal: Terminal) -> None:
    async def answer(talk: Talk, request: pb.GenerateRequest) -> None:
        if request.start.identity.prompt == "bad":
            await talk.error(request.start.id, 8, "the queue is full", retry_after_s=2)
        else:
            text = request.start.identity.prompt
            await talk.complete(request.start.id, text, cost_usd=0.5, cost_saved_usd=0.25)

    double.answer = answer
    terminal.file(
        "requests.jsonl",
        b'{"prompt": "one"}\n\nSECRET\n'
        b'{"prompt": "two", "model": "n", "temperature": 1, "parameters": {"max_tokens": 1}}\n'
        b'{"prompt": "bad"}\n{"prompt": "x", "SECRET": 1}\n{"prompt": "y", "temperature": -1}\n',
    )
    code, out, err = await terminal(
        *("generate", "-m", "m", "-t", "0", "-s", "Brief.", "--max-tokens", "9"),
        *("--file", "requests.jsonl", "-c", "2"),
    )
    assert code == 1
    ends = {end["line"]: end for end in map(json.loads, out.splitlines())}
    assert sorted(ends) == [1, 4, 5]
    assert (ends[1]["text"], ends[4]["text"]) == ("one", "two")
    assert ends[5]["error"] == {
        "code": "RESOURCE_EXHAUSTED",
        "message": "RESOURCE_EXHAUSTED: the queue is full",
        "retry_after_s": 2.0,
    }
    assert err.splitlines() == [
        "mge-cache: 2 answered, $1.000000, saved $0.500000",
        "mge-cache: 1 failed",
        "mge-cache: line 3: not JSON",
        "mge-cache: line 6: 1 unknown field(s); known: model, parameters, prompt, temperature",
        "mge-cache: line 7: temperature: must be finite and not negative",
    ]
    asked = {each.start.identity.prompt: each.start.identity for each in double.talk.requests}
    assert (asked["one"].model, asked["one"].temperature) == ("m", 0)
    assert dict(asked["one"].parameters) == {"system": '"Brief."', "max_tokens": "9"}
    assert (asked["two"].model, asked["two"].temperature) == ("n", 1)
    assert dict(asked["two"].parameters) == {"system": '"Brief."', "max_tokens": "1"}


async def test_a_file_on_stdin(terminal: Terminal) -> None:
    code, out, err = await terminal(
        "generate", "--file", "-", stdin=b'{"model": "m", "prompt": "one"}'
    )
    assert (code, json.loads(out)["text"]) == (0, "one")
    assert err == "mge-cache: 1 answered, $0.000000, saved $0.000000\n"


async def test_deferred_and_fetch(double: GenerateDouble, terminal: Terminal) -> None:
    async def answer(talk: Talk, request: pb.GenerateRequest) -> None:
        if request.start.id:
            await talk.error(request.start.id, 4, "in its batch")
        elif request.fetch.id == "essay":
            await talk.complete("essay", "Text.", source=pb.ANSWER_SOURCE_CACHE)
        else:
            await talk.error(request.fetch.id, 4 if request.fetch.id == "later" else 5)

    double.answer = answer
    deferred = ("generate", "-n", "plans", "-m", "m", "--strategy", "deferred", "--id", "essay")
    code, _, err = await terminal(*deferred, "Write an essay.")
    assert (code, err.splitlines()) == (
        1,
        [
            "mge-cache: asking as essay",
            "mge-cache: not there yet; later: mge-cache fetch -n plans essay",
        ],
    )
    fetched = await terminal("fetch", "-n", "plans", "essay", "--timeout", "1h")
    assert fetched == (0, "Text.", "mge-cache: cache, 7 + 3 tokens, $0.000000\n")
    asked = double.talks[-1].requests[0].fetch
    assert (asked.namespace, asked.timeout.seconds) == ("plans", 3600)
    _, out, _ = await terminal("fetch", "essay", "--json")
    assert json.loads(out)["source"] == "cache"
    assert await terminal("fetch", "later") == (1, "", "mge-cache: not there yet\n")
    assert await terminal("fetch", "never") == (1, "", "mge-cache: nothing is known of it\n")
    code, _, err = await terminal("fetch", "a\n")
    assert (code, "ID must not contain control characters" in err) == (2, True)


async def test_stats(terminal: Terminal) -> None:
    _, out, _ = await terminal("stats", "--json")
    shown = json.loads(out)
    assert shown["success"] == {
        "hit_rate": {"value": 0.75, "target": 0.6},
        "cost_reduction": {"value": 0.25, "target": 0.3},
        "time_reduction": {"value": 0.4, "target": 0.4},
    }
    assert shown["batcher"]["batches_by_strategy"] == {"merge": 3, "fan_out": 1, "deferred": 0}
    assert shown["batcher"]["models"]["m"]["cost_usd"] == 0.1
    assert shown["layers"][0]["computed_s"] == 60.0
    _, out, _ = await terminal("stats")
    for told in (
        "75.0% (target 60%)",
        "25.0% (target 30%)",
        "40.0% (target 40%)",
        "4 (10 requests, 2.5 in each)",
        "fan_out 1, merge 3",
        "3 of 100, 2 refused",
        "6 (ok 5, rate_limited 1)",
        "6 of 8, NOT ASKED as it failed",
        "no key to Anthropic",
        "250 ms on average",
        "2 (9 open requests)",
    ):
        assert told in out
