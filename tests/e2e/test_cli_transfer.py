"""Export and import between real stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache_server.wire_rag import place
from tests.e2e.commands import command, lines
from tests.e2e.test_rag import found, identity, is_similar, near, vector

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.sidecars import Launch

# These tests are not about deadlines, and share two cores with others.
PATIENT = ("--store-timeout", "10s")


def key_of(seed: int) -> bytes:
    """The canonical key of a stored query."""
    return place(identity(seed))[0].digest


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


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


MOVES = {
    "to another Valkey": ("valkey9", "local", "valkey9", "local"),
    "from a cluster": ("cluster", "local", "redis8", "local"),
    "to vector sets": ("valkey9", "local", "redis8", "vector-sets"),
    "to vector sets of a cluster": ("redis8", "local", "cluster8", "vector-sets"),
    "from vector sets": ("redis8", "vector-sets", "valkey9", "local"),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
async def test_retrievals_are_similar_hits_after_they_moved(
    move: tuple[str, str, str, str], launch: Launch, servers: Any, key_prefix: str, tmp_path: Path
) -> None:
    kind, index, new_kind, new_index = move
    prefix = ("--key-prefix", key_prefix)
    here = await launch(servers.url(kind), options=(*PATIENT, *prefix, "--rag-index", index))
    content = [
        pb.RAGDocument(id="text", score=0.5, content="ü".encode(), metadata={"page": "1"}),
        pb.RAGDocument(id="bytes", score=0.25, content=b"\xff\x00"),
    ]
    embedded = [
        pb.RAGDocument(id=f"d{n}", content=bytes([n]), embedding=vector(n)) for n in range(4)
    ]
    for seed, documents in ((1, content), (2, embedded), (3, content)):
        stored = pb.StoreRAGRequest(identity=identity(seed), documents=documents, top_k=1)
        await here.stub.StoreRAG(stored)
    for seed in (1, 2, 3):
        await found(here, seed)
    expected = {seed: (await near(here, seed)).hit.documents for seed in (1, 2)}
    await here.stub.Invalidate(pb.InvalidateRequest(namespace="ns", key=key_of(3)))

    file = tmp_path / "ns.jsonl"
    store = ("--redis-url", servers.url(kind), *prefix)
    exported = await command("export", str(file), "-n", "ns", "--json", *store)
    assert exported.json == {"exported": 2, "invalidated": 1, "unreadable": 0}
    prefix = ("--key-prefix", f"{key_prefix}-2")
    options = (*prefix, "--rag-index", new_index)
    elsewhere = ("--redis-url", servers.url(new_kind), *options)
    imported = await command("import", str(file), "--json", *elsewhere)
    assert (imported.code, imported.json["imported"]) == (0, 2)

    there = await launch(servers.url(new_kind), options=(*PATIENT, *options))
    for seed in (1, 2):
        await found(there, seed)
        assert (await near(there, seed)).hit.documents == expected[seed]
    assert (await near(there, 3)).HasField("miss")
    await there.stub.Invalidate(pb.InvalidateRequest(namespace="ns", document="bytes"))
    assert (await near(there, 1)).HasField("miss")
    assert await is_similar(there, 2)


async def test_import_into_vector_sets_needs_a_server_with_some(
    servers: Any, key_prefix: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"format":"mge-cache/export","version":1,"namespace":"a"}\n')
    where = ("--redis-url", servers.url("valkey9"), "--key-prefix", key_prefix)
    refused = await command("import", str(file), *where, "--rag-index", "vector-sets")
    assert refused.code == 2
    assert "no vector sets" in refused.err


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


async def test_export_makes_no_store_where_there_is_none(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    done = await command("export", str(tmp_path / "x"), "--data-dir", str(missing))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"mge-cache: {missing}: no such folder")
    assert "--data-dir" in done.err
    assert names_in(tmp_path) == []


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
