"""The commands that look at a sidecar and its entries, as processes."""

from __future__ import annotations

import json
import re
import signal
from typing import TYPE_CHECKING

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.e2e.commands import command, start

if TYPE_CHECKING:
    from tests.e2e.sidecars import Launch


async def test_set_get_invalidate(launch: Launch) -> None:
    sidecar = await launch()
    identity = ("-n", "plans", "-m", "m", "-t", "0", "-p", "max_tokens=5", "Why?")
    missed = await command("get", *identity, target=sidecar)
    assert (missed.code, missed.out, missed.err) == (1, "", "mge-cache: miss\n")
    details = ("--ttl", "1h", "--cost", "0.25", "--tag", "sky", "--input-tokens", "7")
    stored = await command(
        "set", *identity, "--answer-file", "-", *details, stdin=b"\xc3\xbc\xff", target=sidecar
    )
    assert stored.code == 0
    assert re.fullmatch(r"stored for \S+, cost \$0\.250000\n", stored.out)
    found = await command("get", *identity, "--json", target=sidecar)
    assert found.json["answer_base64"] == "w7z/"
    assert found.json["cost_saved_usd"] == 0.25
    assert found.json["input_tokens"] == 7
    assert 3000 < found.json["remaining_ttl_s"] <= 3600 * 1.05
    key = (await command("key", *identity)).out.strip()
    by_key = await command("get", "-n", "plans", "--key", key, "--json", target=sidecar)
    assert by_key.json["answer_base64"] == "w7z/"
    elsewhere = await command("get", "--key", key, target=sidecar)
    assert elsewhere.code == 1
    gone = await command("invalidate", "-n", "plans", "--tag", "sky", "--json", target=sidecar)
    assert gone.json["tick"] > 1_700_000_000_000_000
    assert (await command("get", *identity, target=sidecar)).code == 1


async def test_an_answer_goes_to_stdout_as_it_is(launch: Launch) -> None:
    sidecar = await launch()
    await command("set", "-m", "m", "p", "--answer", "line\n", target=sidecar)
    found = await command("get", "-m", "m", "-v", "p", target=sidecar)
    assert found.out == "line\n"
    assert "source: l1" in found.err


async def test_what_a_sidecar_refuses_is_4(launch: Launch) -> None:
    sidecar = await launch(options=("--answer-max", "10", "--tags-max", "1"))
    refused = await command("set", "-m", "m", "SECRET", "--answer", "x" * 11, target=sidecar)
    assert refused.code == 4
    assert "answer" in refused.err
    assert "SECRET" not in refused.err
    bad = await command("get", "-n", "a b", "-m", "m", "p", target=sidecar)
    assert bad.code == 4
    assert "namespace" in bad.err


async def test_a_switched_off_cache_stores_nothing(launch: Launch) -> None:
    sidecar = await launch(environment={"MGE_V2_LLM_CACHE_ENABLED": "false"})
    refused = await command("set", "-m", "m", "p", "--answer", "x", target=sidecar)
    assert (refused.code, refused.err) == (4, "mge-cache: not stored: the cache is switched off\n")
    line = b'{"model": "m", "prompt": "p", "answer": "a"}\n'
    warmed = await command("warm", "-", stdin=line, target=sidecar)
    assert warmed.code == 4


async def test_stats(launch: Launch) -> None:
    sidecar = await launch()
    await command("set", "-m", "m", "p", "--answer", "x", "--cost", "0.5", target=sidecar)
    await command("get", "-m", "m", "p", target=sidecar)  # a peek: it is not counted
    identity = pb.PromptIdentity(model="m", prompt="p")
    await sidecar.stub.GetPrompt(pb.GetPromptRequest(identity=identity))
    figures = (await command("stats", "--json", target=sidecar)).json
    layer, *_ = figures["layers"]
    assert (layer["total_writes"], layer["spent_usd"]) == (1, 0.5)
    assert (layer["total_hits"], layer["saved_usd"]) == (1, 0.5)
    other = (await command("stats", "--json", "-n", "other", target=sidecar)).json
    assert other["layers"][0]["total_writes"] == 0
    table = await command("stats", target=sidecar)
    assert re.search(r"spent\s+│\s+\$0\.5000", table.out)
    assert re.search(r" 1 entry, [\d.]+ (Ki)?B of 64 MiB ", table.out)


async def test_stats_are_watched_until_the_sidecar_ends(launch: Launch) -> None:
    sidecar = await launch()
    process = await start("stats", "--json", "--watch", "100ms", target=sidecar)
    assert process.stdout is not None
    uptimes = [json.loads(await process.stdout.readline())["uptime_s"] for _ in range(3)]
    assert uptimes == sorted(set(uptimes))
    await sidecar.stop()
    await process.communicate()
    assert process.returncode == 3


# SIGTERM has to be asked for: the first process of a container does not get it otherwise.
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interruption_is_quiet_and_130(launch: Launch, number: signal.Signals) -> None:
    sidecar = await launch()
    process = await start("stats", "--json", "--watch", target=sidecar)
    assert process.stdout is not None
    await process.stdout.readline()
    process.send_signal(number)
    _, err = await process.communicate()
    assert (process.returncode, err.strip()) == (130, b"")


async def test_a_reader_that_has_enough_is_met_quietly(launch: Launch) -> None:
    sidecar = await launch()
    process = await start("stats", "--json", "--watch", "100ms", target=sidecar)
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert await process.stderr.read() == b""
    assert await process.wait() == 1


async def test_health(launch: Launch) -> None:
    sidecar = await launch()
    ready = await command("health", target=sidecar)
    assert (ready.code, ready.out) == (0, f"{sidecar.target}: ready\n")
    assert (await command("health", "--quiet", target=sidecar)).out == ""
    await sidecar.stop()
    assert (await command("health", target=sidecar)).code == 1
