"""Export and import of retrievals over the in-memory store."""

from __future__ import annotations

import dataclasses
import json
import struct
from math import isnan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mge_cache_server import rag_codec
from mge_cache_server.jsonl import Line, write_body, write_real
from mge_cache_server.keys import collection_tag, document_tag, key_tag, model_tag
from mge_cache_server.model import Document, EntryKey, RagEntry, Retrieval
from mge_cache_server.store import EVERYTHING
from mge_cache_server.transfer_lines import decode, members_of, read_entry
from tests.unit.test_cli_transfer import NAMESPACE, TTL_S, World, edited

KEY = EntryKey(NAMESPACE, b"\x07" * 32)
PARTITION = EntryKey(NAMESPACE, b"\x08" * 32)
HALF = struct.pack("<4f", 0.5, -0.5, 0.5, 0.5)
RADIUS = 0.1 + 0.2


def retrieval(*documents: Document, embedded: bool = True, **changes: Any) -> Retrieval:
    usual: dict[str, Any] = {
        "embedding_model": "minilm",
        "query": "",
        "embedding": HALF,
        "top_k": 2,
        "documents": documents,
        "embeddings": b"".join(struct.pack("<4f", 1, n, -0.0, 0.1) for n, _ in enumerate(documents))
        if embedded
        else b"",
        "radius": RADIUS if embedded else None,
        "cost_usd": 0.25,
        "compute_s": 1.5,
    }
    return Retrieval(**{**usual, **changes})


FOUND = retrieval(
    Document("text", 0.9, "ü\u2028\n".encode(), {"page": "1"}),
    Document("bytes", float("-inf"), b"\xff\x00", {}),
    Document("zeros", -1e-300, bytes(10), {}),
    Document("none", 3.0, b"", {"": ""}),
)


async def put(world: World, found: Retrieval = FOUND) -> RagEntry:
    clock = (await world.store.read_epochs(NAMESPACE, -1)).clock
    documents = (document_tag(each.id) for each in found.documents)
    own = (key_tag(KEY.digest), model_tag("minilm"), *documents, collection_tag("faq"), "tag:x")
    entry = RagEntry(found, clock, 1000, own, PARTITION.digest)
    await world.store.put(KEY, rag_codec.encode(entry), TTL_S)
    return entry


async def row_of(world: World) -> tuple[int, bytes, float]:
    [row] = await world.store.read_rows(PARTITION, [KEY.digest])
    tick, vector = rag_codec.unpack_row(row.content, 4)
    return tick, bytes(vector), row.remaining_s


@pytest.mark.parametrize(
    "found",
    [
        FOUND,
        retrieval(),
        retrieval(Document("d", 1.0, b"text", {}), embedded=False),
        dataclasses.replace(FOUND, query='What "was" asked?', radius=None),
    ],
    ids=["embedded", "no documents", "no embeddings", "with its text"],
)
async def test_a_retrieval_moves_with_its_row(found: Retrieval) -> None:
    here, there = World(), World()
    entry = await put(here, found)
    content, report = await here.export()
    assert (report.exported, report.unreadable) == (1, 0)
    there.now_s += 600
    done = await there.load(content)
    assert (done.imported, done.bad.report()) == (1, "")
    clock = (await there.store.read_epochs(NAMESPACE, -1)).clock
    found_there = await there.store.lookup(KEY)
    assert found_there.record is not None
    assert rag_codec.decode(found_there.record) == dataclasses.replace(entry, tick=clock)
    tick, vector, remaining_s = await row_of(there)
    assert (tick, vector) == (clock, HALF)
    assert remaining_s == pytest.approx(TTL_S - 600, abs=0.01)


async def test_answers_and_retrievals_share_a_file() -> None:
    here, there = World(), World()
    await put(here)
    await here.put(1)
    content, report = await here.export()
    assert report.exported == 2
    assert (await there.load(content)).imported == 2


async def test_an_invalidated_document_is_not_exported() -> None:
    world = World()
    await put(world)
    await world.store.advance(NAMESPACE, [document_tag("zeros")])
    _, report = await world.export()
    assert (report.exported, report.invalidated) == (0, 1)


async def test_a_second_run_adds_a_row_that_the_first_could_not() -> None:
    world = World()
    await put(world)
    assert await world.store.read_rows(PARTITION, [KEY.digest]) == []
    content, _ = await world.export()
    done = await world.load(content)
    assert (done.imported, done.present) == (0, 1)
    assert (await row_of(world))[1] == HALF


async def test_what_is_imported_can_be_invalidated_by_its_documents() -> None:
    here, there = World(), World()
    await put(here)
    content, _ = await here.export()
    await there.load(edited(content, 1, tags=[collection_tag("faq")]))
    await there.store.advance(NAMESPACE, [document_tag("text")])
    assert (await there.export())[1].invalidated == 1
    assert (await there.load(content)).imported == 1  # begun now, so it is valid again
    await there.store.advance(NAMESPACE, [EVERYTHING])
    assert (await there.export())[1].invalidated == 1


DOCUMENT = {"id": "d", "score": 1, "content": "SECRET"}


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"partition": "00"}, "partition: must be 64 hexadecimal digits"),
        ({"partition": 1}, "partition: must be text"),
        ({"answer": "x"}, "1 unknown field(s)"),
        ({"embedding_model": None}, "embedding_model: is required"),
        ({"embedding_base64": 1}, "embedding_base64: must be text"),
        ({"embedding_base64": "SECRET!"}, "embedding_base64: must be base64"),
        ({"embedding_base64": "AAAA"}, "embedding_base64: must be float32 numbers"),
        ({"embedding_base64": "AAAAAA=="}, "embedding_base64: must have unit length"),
        ({"embedding_base64": "AADAfw=="}, "embedding_base64: must have unit length"),
        ({"embedding_base64": "AACAPw=="}, "documents: embeddings must have the query's dimension"),
        ({"top_k": 0}, "top_k: must be 1 to 100"),
        ({"top_k": 101}, "top_k: must be 1 to 100"),
        ({"radius": -1}, "radius: must be finite and not negative"),
        ({"documents": None}, "documents: must be a list of objects"),
        ({"documents": [1]}, "documents: must be a list of objects"),
        ({"documents": [DOCUMENT | {"id": ""}]}, "documents[0]: id: must not be empty"),
        ({"documents": [DOCUMENT, DOCUMENT | {"id": "\n"}]}, "documents[1]: id: must not contain"),
        ({"documents": [DOCUMENT | {"score": "SECRET"}]}, "documents[0]: score: must be a number"),
        ({"documents": [DOCUMENT | {"score": 10**400}]}, "documents[0]: score: must be a number"),
        ({"documents": [{"id": "d", "score": 1}]}, "documents[0]: content: either this or"),
        ({"documents": [DOCUMENT | {"SECRET": 1}]}, "documents[0]: 1 unknown field(s)"),
        ({"documents": [DOCUMENT | {"metadata": {"a": 1}}]}, "documents[0]: metadata: must have"),
    ],
)
async def test_a_bad_retrieval_is_named_by_line_and_field(
    members: dict[str, Any], told: str
) -> None:
    world = World()
    await put(world)
    content, _ = await world.export()
    report = await World().load(edited(content, 1, **members))
    assert report.imported == 0
    assert report.bad.report().startswith(f"line 2: {told}")
    assert "SECRET" not in report.bad.report()


async def test_embeddings_without_a_direction_are_refused() -> None:
    zero = dataclasses.replace(FOUND, embeddings=bytes(4 * len(HALF)))
    world = World()
    await put(world, zero)
    content, _ = await world.export()
    assert "finite and not zero" in (await World().load(content)).bad.report()


@settings(deadline=None)
@given(st.floats(), st.binary(max_size=40))
def test_numbers_and_bytes_come_back_by_json(number: float, body: bytes) -> None:
    members = json.loads(json.dumps({"n": write_real(number), **write_body("b", body)}))
    line = Line(1, members, 0)
    assert struct.pack("<d", line.real("n")) == struct.pack("<d", number) or isnan(number)
    if body:
        assert line.body("b") == body


async def test_a_line_is_never_much_longer_than_its_record() -> None:
    """`import` bounds lines by twice the largest answer."""
    zeros = retrieval(Document("d", 1.0, bytes(100_000), {}), embedded=False)
    entry = await put(World(), zeros)
    members = members_of(KEY.digest, entry, 2e9)
    assert len(json.dumps(members)) < 1.4 * len(rag_codec.encode(entry))
    read = read_entry(Line(2, json.loads(json.dumps(members)), 0), entry.tick)
    assert read == (KEY.digest, 2_000_000_000_000, entry)
    assert decode(rag_codec.encode(entry)) == entry
