"""What doctor finds at real servers, and what it tells to mend."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers.fixtures import SERVER_KINDS, VECTOR_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.sidecars import Launch

FREE = ("--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")


async def doctor(*arguments: str, **settings: str) -> tuple[int, list[dict[str, str]]]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("MGE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mge_cache_server", "doctor", "--json", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**inherited, "PYTHONPATH": os.pathsep.join(sys.path), **settings},
    )
    out, err = await process.communicate()
    assert err == b""
    assert process.returncode is not None
    findings: list[dict[str, str]] = json.loads(out)
    for finding in findings:
        assert bool(finding["mend"]) == (finding["verdict"] != "ok")
        assert "\n" not in finding["text"] + finding["mend"]
    return process.returncode, findings


def of(findings: list[dict[str, str]], what: str, verdict: str) -> list[str]:
    chosen = [each for each in findings if (each["what"], each["verdict"]) == (what, verdict)]
    return [each["text"] for each in chosen]


@pytest.mark.parametrize("kind", SERVER_KINDS)
async def test_nothing_is_wrong_with_a_good_server(
    kind: str, servers: Any, key_prefix: str
) -> None:
    patient = ("--store-timeout", "2s")
    code, findings = await doctor(
        *FREE, *patient, "--redis-url", servers.url(kind), "--key-prefix", key_prefix
    )
    assert (code, [each for each in findings if each["verdict"] == "problem"]) == (0, [])
    for what in ("redis", "permissions", "feed", "clock", "latency"):
        assert of(findings, what, "ok"), what


@pytest.mark.parametrize("kind", ["valkey9", "redis8", "redis7"])
async def test_a_user_without_rights_is_told_which(
    kind: str, own_server: Callable[..., Any], key_prefix: str
) -> None:
    server = own_server(kind)
    server.execute(
        *("ACL", "SETUSER", "app", "on", ">pw", f"~{key_prefix}:*", f"&{key_prefix}:feed"),
        *("+@connection", "+get", "+set", "+pttl", "+eval", "+evalsha", "+subscribe", "+info"),
        *("+del", "+unlink", "+pexpire", "+time", "+command", "+publish", "+setrange"),
    )
    where = ("--redis-url", server.unix_url, "--redis-username", "app", "--key-prefix", key_prefix)
    code, findings = await doctor(*FREE, *where, MGE_CACHE_REDIS_PASSWORD="pw")
    assert code == 1
    told = of(findings, "permissions", "problem")
    assert [text.partition(":")[0] for text in told] == [
        f"cannot {what}"
        for what in ("read epochs", "invalidate", "store a row", "list rows", "read rows")
    ]
    advice = next(each["mend"] for each in findings if each["what"] == "permissions")
    rights = advice.removeprefix("give the user: ").split()
    server.execute("ACL", "SETUSER", "app", *rights)
    code, findings = await doctor(*FREE, *where, MGE_CACHE_REDIS_PASSWORD="pw")
    assert of(findings, "permissions", "ok")
    assert of(findings, "feed", "ok")
    assert code == 0


async def test_the_rights_that_doctor_advises_are_enough(
    own_server: Callable[..., Any], key_prefix: str
) -> None:
    server = own_server()
    server.execute("ACL", "SETUSER", "app", "on", ">pw", "+ping")
    where = ("--redis-url", server.unix_url, "--redis-username", "app", "--key-prefix", key_prefix)
    code, findings = await doctor(*FREE, *where, MGE_CACHE_REDIS_PASSWORD="pw")
    assert code == 1
    advice = next(each["mend"] for each in findings if each["what"] == "permissions")
    rights = advice.removeprefix("give the user: ").split()
    server.execute("ACL", "SETUSER", "app", *rights)
    code, findings = await doctor(*FREE, *where, MGE_CACHE_REDIS_PASSWORD="pw")
    assert [each for each in findings if each["verdict"] == "problem"] == []
    assert code == 0


VECTOR_SETS = ("--rag-index", "vector-sets")


@pytest.mark.parametrize("kind", VECTOR_KINDS)
async def test_vector_sets_where_there_are_some(kind: str, servers: Any, key_prefix: str) -> None:
    where = ("--redis-url", servers.url(kind), "--key-prefix", key_prefix)
    code, findings = await doctor(*FREE, "--store-timeout", "2s", *where, *VECTOR_SETS)
    assert (code, [each for each in findings if each["verdict"] == "problem"]) == (0, [])
    assert of(findings, "vector sets", "ok")


@pytest.mark.parametrize("kind", ["valkey9", "redis7", "cluster"])
async def test_vector_sets_where_there_are_none(kind: str, servers: Any, key_prefix: str) -> None:
    where = ("--redis-url", servers.url(kind), "--key-prefix", key_prefix)
    code, findings = await doctor(*FREE, "--store-timeout", "2s", *where, *VECTOR_SETS)
    assert code == 1
    assert of(findings, "vector sets", "problem") == ["the server has no vector sets"]
    assert of(findings, "permissions", "ok")


async def test_a_user_who_may_not_use_vector_sets(
    own_server: Callable[..., Any], key_prefix: str
) -> None:
    server = own_server("redis8")
    server.execute("ACL", "SETUSER", "app", "on", ">pw", "+ping", f"~{key_prefix}:*")
    where = ("--redis-url", server.unix_url, "--redis-username", "app", "--key-prefix", key_prefix)
    code, findings = await doctor(*FREE, *where, *VECTOR_SETS, MGE_CACHE_REDIS_PASSWORD="pw")
    assert code == 1
    [advice] = [each["mend"] for each in findings if each["what"] == "vector sets"]
    server.execute("ACL", "SETUSER", "app", *advice.removeprefix("allow ").split())
    _, findings = await doctor(*FREE, *where, *VECTOR_SETS, MGE_CACHE_REDIS_PASSWORD="pw")
    assert of(findings, "vector sets", "ok")
    advice = next(each["mend"] for each in findings if each["what"] == "permissions")
    server.execute("ACL", "SETUSER", "app", *advice.removeprefix("give the user: ").split())
    code, findings = await doctor(*FREE, *where, *VECTOR_SETS, MGE_CACHE_REDIS_PASSWORD="pw")
    assert (code, [each for each in findings if each["verdict"] == "problem"]) == (0, [])


async def test_rights_are_not_blamed_for_other_errors(
    own_server: Callable[..., Any], tmp_path: Path
) -> None:
    more = tmp_path / "more.conf"
    more.write_text('rename-command EVALSHA ""\n')
    server = own_server(options={"include": str(more)})
    code, findings = await doctor(*FREE, "--redis-url", server.unix_url)
    assert code == 1
    mends = {each["mend"] for each in findings if each["what"] == "permissions"}
    assert mends
    assert not [mend for mend in mends if "give the user" in mend]


async def test_a_wrong_password(own_server: Callable[..., Any]) -> None:
    server = own_server()
    server.set_password("right")
    code, findings = await doctor(
        *FREE, "--redis-url", server.unix_url, MGE_CACHE_REDIS_PASSWORD="hunter2"
    )
    assert code == 1
    [text] = of(findings, "redis", "problem")
    assert "refused" in text
    assert "hunter2" not in str(findings)


async def test_a_server_that_hangs_or_is_gone(own_server: Callable[..., Any]) -> None:
    server = own_server()
    where = ("--redis-url", server.unix_url)
    server.pause()
    code, findings = await doctor(*FREE, *where)
    assert code == 1
    assert "no answer within 3s" in of(findings, "redis", "problem")[0]
    server.resume()
    server.kill()
    code, findings = await doctor(*FREE, *where)
    assert code == 1
    assert "cannot be reached" in of(findings, "redis", "problem")[0]


async def test_a_policy_that_evicts_epochs(own_server: Callable[..., Any]) -> None:
    server = own_server(options={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"})
    code, findings = await doctor(*FREE, "--redis-url", server.unix_url, "--store-timeout", "2s")
    assert code == 0
    [text] = of(findings, "memory", "warning")
    assert "allkeys-lru can evict epochs" in text


async def test_a_server_that_takes_no_writes(own_server: Callable[..., Any]) -> None:
    server = own_server(options={"maxmemory": "1", "maxmemory-policy": "noeviction"})
    code, findings = await doctor(*FREE, "--redis-url", server.unix_url)
    assert code == 1
    assert any("out of memory" in text for text in of(findings, "permissions", "problem"))


async def test_a_node_of_a_cluster_without_saying_so(servers: Any) -> None:
    url = servers.url("cluster").replace("+cluster", "").partition(",")[0]
    code, findings = await doctor(*FREE, "--redis-url", url)
    assert code == 1
    assert "this is a node of a cluster" in of(findings, "redis", "problem")


async def test_addresses(launch: Launch) -> None:
    sidecar = await launch(tcp=True, http=True)
    addresses = ("--listen", sidecar.targets[1], "--http-listen", sidecar.http_address)
    unix = ("--unix-socket", sidecar.target.removeprefix("unix:"))
    store = ("--redis-url", "memory://")
    code, findings = await doctor(*store, *addresses, *unix)
    assert code == 0
    assert len(of(findings, "address", "ok")) == 3
    assert all("a sidecar answers" in text for text in of(findings, "address", "ok"))


async def test_addresses_of_others_and_none_at_all(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        code, findings = await doctor(
            *("--redis-url", "memory://", "--listen", taken, "--http-listen", "0.0.0.0:0"),
            *("--unix-socket", str(tmp_path / "no/folder/s")),
        )
    assert code == 1
    told = of(findings, "address", "problem")
    assert len(told) == 2
    assert "there is no folder" in told[0]
    assert told[1] == f"--listen {taken}: already in use by another process"
    [exposed] = of(findings, "exposure", "warning")
    assert exposed.startswith("--http-listen 0.0.0.0:0 can be reached")


async def test_the_embedded_store(launch: Launch) -> None:
    sidecar = await launch("")
    where = ("--data-dir", str(sidecar.folder / "data"), "--store-timeout", "2s")
    code, findings = await doctor(*FREE, *where)
    assert code == 0
    assert of(findings, "permissions", "ok")
    assert await sidecar.stop() == 0
    code, findings = await doctor(*FREE, *where)
    assert (code, of(findings, "permissions", "ok")) == (0, [])


async def test_files(tmp_path: Path, servers: Any) -> None:
    password = tmp_path / "password"
    password.write_text("x")
    password.chmod(0o644)
    prices = tmp_path / "prices.toml"
    prices.write_text("nonsense")
    code, findings = await doctor(
        *FREE,
        *("--redis-url", servers.url("valkey9"), "--redis-password-file", str(password)),
        *("--prices-file", str(prices)),
    )
    assert code == 1
    assert "mode 644" in of(findings, "file", "warning")[0]
    assert of(findings, "prices", "problem")


async def test_mistakes_in_the_configuration() -> None:
    code, findings = await doctor("--ttl", "soon", MGE_CACHE_DRIAN="1")
    assert code == 1
    assert len(of(findings, "configuration", "problem")) == 2
