"""``mge-cache rag``, ``invalidate --document`` and ``stats``, against a sidecar that shows all."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.sidecar_double import SidecarDouble
from tests.rpc.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LINES = (
    b'{"id": "a", "score": 0.9, "content": "text", "metadata": {"page": "1"}, "embedding": [1, 0]}'
    b'\n\n{"id": "b", "score": -0.1, "content_base64": "/w=="}\n{"id": "c", "content": ""}\n'
)
KNOWN = ("content", "content_base64", "embedding", "id", "metadata", "score")
SHOWN = [
    {"id": "a", "score": 0.9, "content": "text", "metadata": {"page": "1"}},
    {"id": "b", "score": -0.1, "content_base64": "/w=="},
    {"id": "c", "score": 0.0},
]


@pytest.fixture
async def double() -> AsyncIterator[SidecarDouble]:
    sidecar = SidecarDouble()
    yield sidecar
    await sidecar.stop()


@pytest.fixture
async def terminal(
    double: SidecarDouble,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Terminal:
    terminal = Terminal(await double.start("127.0.0.1:0"), tmp_path, monkeypatch, capsys)
    terminal.file("q.json", b" [0.5, 2]\n")
    terminal.file("d.jsonl", LINES)
    return terminal


IDENTITY = (
    *("-n", "plans", "-m", "minilm", "-c", "faq", "--index-version", "7"),
    *("--filter", "language=en", "--filter", "x=a=b", "How do I log in?"),
)


async def test_store_then_query(double: SidecarDouble, terminal: Terminal) -> None:
    missed = await terminal("rag", "query", *IDENTITY, "-e", "q.json")
    assert missed == (1, "", "mge-cache: miss\n")
    details = "-k 2 --exact-search --ttl 90s --masterplan p --tag t --tag u --cost 0.5 --preloaded"
    stored = await terminal(
        *("rag", "store", *IDENTITY, "-e", "q.json", "-d", "d.jsonl", *details.split())
    )
    assert stored == (0, "stored for 1m30s, cost $0.500000\n", "")
    (sent,) = double.results
    identity = sent.identity
    assert (identity.namespace, identity.embedding_model, identity.collection) == (
        *("plans", "minilm"),
        "faq",
    )
    assert (identity.index_version, identity.query) == ("7", "How do I log in?")
    assert dict(identity.filter) == {"language": "en", "x": "a=b"}
    assert identity.embedding == struct.pack("<2f", 0.5, 2)
    assert [document.content for document in sent.documents] == [b"text", b"\xff", b""]
    assert sent.documents[0].embedding == struct.pack("<2f", 1, 0)
    assert (sent.top_k, sent.exact_search, sent.ttl.seconds, sent.masterplan) == (2, True, 90, "p")
    assert (list(sent.tags), sent.cost_usd, sent.preloaded) == (["t", "u"], 0.5, True)

    code, out, err = await terminal("rag", "query", *IDENTITY, "-e", "q.json", "-v")
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == SHOWN
    assert "kind: exact" in err
    assert "similarity: 1.0" in err
    code, out, _ = await terminal("rag", "query", *IDENTITY, "-e", "q.json", "-k", "1", "--json")
    found = json.loads(out)
    assert (found["hit"], found["documents"]) == (True, SHOWN[:1])
    assert (found["source"], found["certified"], found["cost_saved_usd"]) == ("l1", False, 0.5)


async def test_what_a_query_asks_for(double: SidecarDouble, terminal: Terminal) -> None:
    terminal.file("q.f32", struct.pack("<2f", 3, 4))
    options = ("--exact", "--certified", "--min-similarity", "0.99")
    code, out, _ = await terminal("rag", "query", "-m", "m", "-e", "q.f32", *options, "--json")
    assert (code, json.loads(out)) == (1, {"hit": False, "degraded": False})
    (asked,) = double.queries
    assert asked.identity.embedding == struct.pack("<2f", 3, 4)
    assert (asked.identity.query, asked.allow_similar) == ("", False)
    assert (asked.min_similarity, asked.min_certainty) == (0.99, pb.CERTAINTY_CERTIFIED)
    # A look from outside must not keep others from retrieving.
    assert (asked.lease_ttl.seconds, asked.lease_ttl.nanos) == (0, 10_000_000)
    double.degraded = True
    _, _, err = await terminal("rag", "query", "-m", "m", "-e", "q.f32")
    assert err == "mge-cache: miss; the sidecar cannot ask its store\n"


async def test_stdin(double: SidecarDouble, terminal: Terminal) -> None:
    await terminal("rag", "query", "-m", "m", "-e", "-", stdin=b"[1, 2]")
    assert double.queries[0].identity.embedding == struct.pack("<2f", 1, 2)
    store = ("rag", "store", "-m", "m")
    await terminal(*store, "-e", "q.json", "-d", "-", stdin=LINES)
    assert len(double.results[0].documents) == 3
    code, _, err = await terminal(*store, "-e", "-", "-d", "-", stdin=LINES)
    assert code == 2
    assert "cannot both" in err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[1, SECRET]", "neither a JSON list"),
        (b'["SECRET"]', "embedding: must be numbers"),
        (b"[0, 0]", "embedding: must not be all 0"),
        (b"[]", "embedding: must have 1 to 8192"),
        (b"abc", "embedding: must be 4 bytes"),
    ],
)
async def test_wrong_embeddings(terminal: Terminal, content: bytes, told: str) -> None:
    terminal.file("q.json", content)
    code, out, err = await terminal("rag", "query", "-m", "m", "-e", "q.json")
    assert (code, out) == (2, "")
    assert told in err
    assert "SECRET" not in err


async def test_wrong_usage(terminal: Terminal) -> None:
    for arguments, told in (
        (["query", "-e", "q.json"], "Missing option '-m'"),
        (["query", "-m", "m"], "Missing option '-e'"),
        (["query", "-m", "m", "-e", "q.json", "--filter", "x"], "--filter is written NAME=TEXT"),
        (["query", "-m", "m", "-e", "q.json", "-k", "101"], "Invalid value for '-k'"),
        (["query", "-m", "m", "-e", "none"], "'none': No such file"),
        (["store", "-m", "m", "-e", "q.json", "-d", "none"], "'none': No such file"),
        (["store", "-m", "m", "-e", "q.json"], "Missing option '-d'"),
    ):
        code, _, err = await terminal("rag", *arguments)
        assert (code, told in err) == (2, True), err


async def test_bad_lines_store_nothing(double: SidecarDouble, terminal: Terminal) -> None:
    terminal.file(
        "d.jsonl",
        b'{"id": "a"}\nSECRET\n{"score": 1}\n{"id": "b", "score": "SECRET"}\n'
        b'{"id": "c", "embedding": [0]}\n{"id": "d", "metadata": {"SECRET": 1}}\n'
        b'{"id": "e", "SECRET": 1}\n{"id": "f", "embedding": "SECRET"}\n{"id":"g","score":NaN}\n',
    )
    code, out, err = await terminal("rag", "store", "-m", "m", "-e", "q.json", "-d", "d.jsonl")
    assert (code, out) == (1, "")
    assert "SECRET" not in err
    assert [line.split(": ", 1)[1] for line in err.splitlines()] == [
        "nothing stored: the documents have bad lines",
        "line 2: not JSON",
        "line 3: id: is required",
        "line 4: score: must be a finite number",
        "line 5: embedding: must not be all 0",
        "line 6: metadata: must map texts to texts",
        f"line 7: 1 unknown field(s); known: {', '.join(KNOWN)}",
        "line 8: embedding: must be a list of numbers",
        "line 9: score: must be a finite number",
    ]
    assert not double.results


async def test_invalidate_and_stats(double: SidecarDouble, terminal: Terminal) -> None:
    assert (await terminal("invalidate", "-n", "plans", "--document", "doc-7"))[0] == 0
    assert (await terminal("invalidate", "--collection", "faq"))[0] == 0
    first, second = double.invalidations
    assert (first.namespace, first.document, second.collection) == ("plans", "doc-7", "faq")
    code, _, err = await terminal("invalidate", "--document", "d", "--collection", "c")
    assert code == 2
    assert "give one of" in err
    _, out, _ = await terminal("stats", "--json")
    assert json.loads(out)["rag_index"]["rows"] == 2
    _, out, _ = await terminal("stats")
    assert "2 in 1 partitions" in out
    assert "re-ranked" in out
