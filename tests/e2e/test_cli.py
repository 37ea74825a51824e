"""The commands as processes, against real sidecars."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.sidecars import Launch, Sidecar


# These tests are not about deadlines, and share two cores with others.
PATIENT = ("--store-timeout", "10s")


@dataclass(frozen=True, slots=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment() -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("MGE_")}
    return {**inherited, "PYTHONPATH": os.pathsep.join(sys.path)}


async def command(*arguments: str, stdin: bytes = b"", target: Sidecar | None = None) -> Done:
    at = () if target is None else ("--target", target.target)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mge_cache_server", *arguments, *at),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    out, err = await process.communicate(stdin)
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return Done(process.returncode, out.decode(), err.decode())


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_the_line_that_serve_prints_works_in_a_shell(launch: Launch) -> None:
    sidecar = await launch()
    line = sidecar.stdout().partition("Try it from another terminal:\n")[2].strip()
    assert "--target" in line
    process = await asyncio.create_subprocess_shell(
        line, stdout=asyncio.subprocess.PIPE, env=environment()
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert out.decode().endswith("Hi there")


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


async def test_stats_are_watched_until_the_sidecar_ends(launch: Launch) -> None:
    sidecar = await launch()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mge_cache_server", "stats", "--json", "--watch", "100ms"),
        *("--target", sidecar.target),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    uptimes = [json.loads(await process.stdout.readline())["uptime_s"] for _ in range(3)]
    assert uptimes == sorted(set(uptimes))
    await sidecar.stop()
    await process.communicate()
    assert process.returncode == 3


async def test_ctrl_c_is_quiet_and_130(launch: Launch) -> None:
    sidecar = await launch()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mge_cache_server", "stats", "--json", "--watch"),
        *("--target", sidecar.target),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert (process.returncode, err.strip()) == (130, b"")


async def test_a_reader_that_has_enough_is_met_quietly(launch: Launch) -> None:
    sidecar = await launch()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mge_cache_server", "stats", "--json", "--watch", "100ms"),
        *("--target", sidecar.target),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
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


def lines(*numbers: int, **members: Any) -> bytes:
    objects = ({"model": "m", "prompt": f"p{n}", "answer": f"a{n}", **members} for n in numbers)
    return b"".join(json.dumps(each).encode() + b"\n" for each in objects)


async def test_warm_stores_and_can_be_repeated(launch: Launch) -> None:
    sidecar = await launch()
    content = lines(*range(300), cost_usd=0.1, ttl="2h", tags=["t"], parameters={"a": 1})
    warmed = await command("warm", "-", "--json", stdin=content, target=sidecar)
    assert warmed.code == 0
    assert warmed.json["stored"] == 300
    again = await command("warm", "-", "--json", stdin=content + lines(300), target=sidecar)
    assert (again.json["stored"], again.json["present"]) == (1, 300)
    fresh = await command("warm", "-", "--json", "--refresh", stdin=content, target=sidecar)
    assert fresh.json["stored"] == 300
    found = await command("get", "-m", "m", "-p", "a=1", "p7", "--json", target=sidecar)
    assert found.json["answer"] == "a7"
    assert found.json["cost_saved_usd"] == 0.1
    assert 6000 < found.json["remaining_ttl_s"] < 8000
    figures = (await command("stats", "--json", target=sidecar)).json
    assert figures["layers"][0]["spent_usd"] == 0


async def test_warm_names_bad_lines_and_stores_the_others(launch: Launch, tmp_path: Path) -> None:
    sidecar = await launch(options=("--answer-max", "100"))
    file = tmp_path / "answers.jsonl"
    file.write_bytes(
        lines(1)
        + b"SECRET\n"
        + b"\n"
        + lines(2, answer="x" * 101)
        + lines(3, ttl="SECRET")
        + lines(4, SECRET=1)
        + lines(5, parameters={"SECRET": float("inf")})
        + b'{"model": "m", "key": "00", "answer": "x"}\n'
        + b'{"model": "m", "key": "' + b"0f" * 32 + b'", "answer": "x", "temperature": 1}\n'
        + b'{"prompt": "p", "answer": "x"}\n'
        + lines(6)
    )  # fmt: skip
    warmed = await command("warm", str(file), target=sidecar)
    assert warmed.code == 1
    assert warmed.out == "2 stored, 0 already there, 8 bad\n"
    assert "SECRET" not in warmed.err
    told = {int(n): rest for n, rest in re.findall(r"line (\d+): (.*)", warmed.err)}
    assert {n: text.partition(":")[0] for n, text in told.items()} == {
        2: "not JSON",
        4: "answer",
        5: "ttl",
        6: "1 unknown field(s); known",
        7: "parameters",
        8: "key",
        9: "temperature",
        10: "model",
    }


async def test_strict_warming_stops_at_a_bad_line(launch: Launch) -> None:
    sidecar = await launch()
    content = lines(1) + b"bad\n" + lines(*range(2, 50))
    warmed = await command("warm", "-", "--strict", "--json", stdin=content, target=sidecar)
    assert warmed.code == 1
    assert warmed.json["bad"] == 1
    assert warmed.json["stored"] <= 1


async def test_warm_goes_on_while_its_stdin_is_silent(launch: Launch) -> None:
    sidecar = await launch()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mge_cache_server", "warm", "-", "--target", sidecar.target),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
    )
    assert process.stdin is not None
    process.stdin.write(lines(1))

    async def is_stored() -> bool:
        return (await command("get", "-m", "m", "p1", target=sidecar)).code == 0

    await eventually(is_stored, within_s=20)
    out, _ = await process.communicate(lines(2))
    assert out == b"2 stored, 0 already there, 0 bad\n"


async def test_warm_without_a_sidecar_is_3(tmp_path: Path) -> None:
    warmed = await command(
        "warm", "-", "--target", f"unix:{tmp_path}/none", stdin=lines(*range(100))
    )
    assert warmed.code == 3
    assert len(warmed.err.splitlines()) == 1


@pytest.mark.parametrize("kind", ["valkey9", "redis8", "cluster"])
async def test_a_namespace_moves_to_another_redis(
    kind: str, launch: Launch, servers: Any, key_prefix: str, tmp_path: Path
) -> None:
    url = servers.url(kind)
    store = ("--redis-url", url, "--key-prefix", key_prefix)
    sidecar = await launch(url, options=(*PATIENT, "--key-prefix", key_prefix))
    content = lines(*range(40), cost_usd=0.5) + lines(40, 41, tags=["old"])
    warmed = await command("warm", "-", "-n", "plans", stdin=content, target=sidecar)
    assert (warmed.code, warmed.out) == (0, "42 stored, 0 already there, 0 bad\n")
    await command("warm", "-", "-n", "other", stdin=lines(1), target=sidecar)
    await command("invalidate", "-n", "plans", "--tag", "old", target=sidecar)
    file = tmp_path / "plans.jsonl"
    exported = await command("export", str(file), "-n", "plans", "--json", *store)
    assert exported.json == {"exported": 40, "invalidated": 2, "unreadable": 0}
    assert file.stat().st_mode & 0o077 == 0
    assert names_in(tmp_path) == ["plans.jsonl"]

    elsewhere = ("--redis-url", servers.url("valkey9"), "--key-prefix", f"{key_prefix}-2")
    imported = await command("import", str(file), "--json", *elsewhere)
    assert (imported.code, imported.json["imported"]) == (0, 40)
    again = await command("import", str(file), "--json", *elsewhere)
    assert (again.json["imported"], again.json["present"]) == (0, 40)
    other = await launch(
        servers.url("valkey9"), options=(*PATIENT, "--key-prefix", f"{key_prefix}-2")
    )
    found = await command("get", "-n", "plans", "-m", "m", "p7", "--json", target=other)
    assert (found.json["answer"], found.json["cost_saved_usd"]) == ("a7", 0.5)


async def test_export_reaches_the_embedded_store_with_and_without_a_sidecar(
    launch: Launch, tmp_path: Path
) -> None:
    sidecar = await launch("", options=PATIENT)
    await command("warm", "-", stdin=lines(*range(5)), target=sidecar)
    where = ("--data-dir", str(sidecar.folder / "data"))
    running = await command("export", "-", *where)
    assert running.code == 0
    assert len(running.out.splitlines()) == 7
    assert await sidecar.stop() == 0
    stopped = await command("export", str(tmp_path / "x.jsonl"), "--json", *where)
    assert stopped.json["exported"] == 5


async def test_import_reports_a_cut_file_and_a_store_that_is_down(
    servers: Any, key_prefix: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"format":"mge-cache/export","version":1,"namespace":"a"}\n')
    store = ("--redis-url", servers.url("valkey9"), "--key-prefix", key_prefix)
    cut = await command("import", str(file), *store)
    assert cut.code == 1
    assert "cut short" in cut.err
    down = await command("import", str(file), "--redis-url", f"unix://{tmp_path}/none.sock")
    assert down.code == 3
    assert down.err.startswith("mge-cache: no answer from the store")
    file.write_text("{}\n")
    other = await command("import", str(file), *store)
    assert (other.code, len(other.err.splitlines())) == (2, 1)


async def test_an_export_that_fails_leaves_no_file(tmp_path: Path) -> None:
    done = await command("export", str(tmp_path / "x"), "--redis-url", f"unix://{tmp_path}/none")
    assert done.code == 3
    assert names_in(tmp_path) == []


async def test_serve_says_which_address_is_taken(launch: Launch) -> None:
    sidecar = await launch(tcp=True, http=True)
    grpc_address = sidecar.targets[1]
    common = ("serve", "--redis-url", "memory://")
    for flag, address in (
        ("--listen", grpc_address),
        ("--http-listen", sidecar.http_address),
        ("--unix-socket", sidecar.target.removeprefix("unix:")),
    ):
        free = {"--listen": "127.0.0.1:0", "--http-listen": "127.0.0.1:0", flag: address}
        flags = [text for pair in free.items() for text in pair]
        taken = await command(*common, *flags)
        assert taken.code == 1
        told = [line for line in taken.err.splitlines() if line.startswith("mge-cache: ")]
        assert told == [f"mge-cache: {flag} {address}: already in use by another process"]
    assert (await command("health", target=sidecar)).code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_ends_with_0_at_a_signal(number: signal.Signals, launch: Launch) -> None:
    sidecar = await launch("")
    sidecar.send(number)
    assert await sidecar.wait() == 0
    assert "Traceback" not in sidecar.stderr()
    assert not (sidecar.folder / "s").exists()


async def test_a_second_signal_does_not_wait() -> None:
    program = (
        "import asyncio; from mge_cache_server.cli.serve import _handle_signals\n"
        "async def main():\n"
        "    asked = asyncio.Event(); _handle_signals(asked); print('ready', flush=True)\n"
        "    await asked.wait(); print('asked', flush=True); await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), stdout=asyncio.subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert await process.stdout.readline() == b"asked\n"
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 130
