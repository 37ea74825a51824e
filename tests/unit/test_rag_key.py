"""The canonical keys of retrievals: the committed vectors, and who agrees with them."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mge_cache import RagQuery
from mge_cache._rag_key import RAGPartition, encode_query, normalised_query
from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache_server import wire_rag
from tests.strategies import unicode_text
from tools import make_rag_key_vectors

if TYPE_CHECKING:
    from pathlib import Path

unhurried = settings(deadline=None)  # a busy machine is not a slow function

FIELDS = ("namespace", "embedding_model", "collection", "index_version", "filter", "query")
WHITE_SPACE = {
    *range(0x09, 0x0E),
    *range(0x1C, 0x21),
    *(0x85, 0xA0, 0x1680),
    *range(0x2000, 0x200B),
    *(0x2028, 0x2029, 0x202F, 0x205F, 0x3000),
}
"""As cache_service.proto has it."""


@pytest.fixture(scope="module")
def committed(repository: Path) -> dict[str, Any]:
    text = (repository / "protos/mge_cache/v1/rag_key_vectors.json").read_text(encoding="ascii")
    content: dict[str, Any] = json.loads(text)
    return content


def decode(encoding: bytes) -> dict[str, Any]:
    """Read an encoding back, by the words of the contract alone."""
    fields = []
    while encoding:
        length = int.from_bytes(encoding[:8], "big")
        assert len(encoding) >= 8 + length
        fields.append(encoding[8 : 8 + length])
        encoding = encoding[8 + length :]
    schema, namespace, model, dimension, collection, version, count, *rest = fields
    assert len(dimension) == len(count) == 8
    conditions = 2 * int.from_bytes(count, "big")
    names, what = rest[:conditions:2], rest[conditions:]
    assert names == sorted(set(names))
    assert len(what) == {b"mge-cache/rag-partition/1": 0, b"mge-cache/rag/1": 2}[schema]
    return {
        "namespace": namespace.decode(),
        "embedding_model": model.decode(),
        "dimension": int.from_bytes(dimension, "big"),
        "collection": collection.decode(),
        "index_version": version.decode(),
        "filter": {
            name.decode(): text.decode()
            for name, text in zip(names, rest[1:conditions:2], strict=True)
        },
        "what": what,
    }


def test_the_committed_vectors_are_fresh(
    committed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads(make_rag_key_vectors.vectors()) == committed
    assert len(committed["keys"]) >= 20
    assert make_rag_key_vectors.main(["--check"]) == 0
    stale = tmp_path / "stale.json"
    stale.write_text("{}")
    assert make_rag_key_vectors.main(["--check", str(stale)]) == 1
    assert "is stale" in capsys.readouterr().err


def test_vectors_follow_the_contract(committed: dict[str, Any]) -> None:
    partitions: dict[str, str] = {}
    queries: dict[tuple[str, str], str] = {}
    for vector in committed["keys"]:
        embedding = bytes.fromhex(vector["embedding"])
        text = normalised_query(vector["query"])
        expected = {
            **{field: vector[field] for field in FIELDS if field != "query"},
            "namespace": vector["namespace"] or "default",
            "dimension": len(embedding) // 4,
        }
        what = [b"q", text.encode()] if text else [b"e", embedding]
        for kind, tail in (("partition", []), ("query", what)):
            encoding = bytes.fromhex(vector[f"{kind}_encoding"])
            assert hashlib.sha256(encoding).hexdigest() == vector[f"{kind}_key"]
            assert decode(encoding) == {**expected, "what": tail}
        same = partitions.setdefault(vector["partition"], vector["partition_key"])
        assert same == vector["partition_key"]
        group = (vector["partition"], vector["group"])
        assert queries.setdefault(group, vector["query_key"]) == vector["query_key"]
    assert len(set(partitions.values())) == len(partitions)
    assert len(set(queries.values())) == len(queries)


def test_client_and_server_compute_the_committed_keys(committed: dict[str, Any]) -> None:
    for vector in committed["keys"]:
        fields = {field: vector[field] for field in FIELDS}
        embedding = bytes.fromhex(vector["embedding"])
        assert RagQuery(**fields, embedding=embedding).key.hex() == vector["query_key"]
        key, partition = wire_rag.place(pb.RAGIdentity(**fields, embedding=embedding))
        assert key.digest.hex() == vector["query_key"]
        assert partition.key.digest.hex() == vector["partition_key"]


def test_one_vector_by_hand(committed: dict[str, Any]) -> None:
    """Not computed by the code under test."""

    def field(content: bytes) -> bytes:
        return len(content).to_bytes(8, "big") + content

    encoding = b"".join(
        (
            field(b"mge-cache/rag/1"),
            field(b"default"),
            field(b"model-a"),
            field((2).to_bytes(8, "big")),
            field(b""),
            field(b""),
            field((1).to_bytes(8, "big")),
            field(b"lang"),
            field(b"de"),
            field(b"q"),
            field(b"where is the station?"),
        )
    )
    [vector] = [each for each in committed["keys"] if each["name"] == "one condition"]
    assert vector["query_encoding"] == encoding.hex()
    assert vector["query_key"] == hashlib.sha256(encoding).hexdigest()


def test_white_space_is_what_the_contract_lists(committed: dict[str, Any]) -> None:
    for code in range(sys.maxunicode + 1):
        if not 0xD800 <= code < 0xE000:
            assert (normalised_query(f"a{chr(code)}b") == "a b") == (code in WHITE_SPACE), hex(code)
    for query in committed["queries"]:
        assert normalised_query(query["input"]) == query["normalised"]


@unhurried
@given(unicode_text)
def test_a_normalised_text_stays_as_it_is(text: str) -> None:
    once = normalised_query(text)
    assert normalised_query(once) == once


places = st.builds(
    RAGPartition,
    namespace=st.sampled_from(("", "default", "a")),
    embedding_model=st.sampled_from(("m", "mn")),
    dimension=st.sampled_from((1, 2)),
    collection=st.sampled_from(("", "n", "q")),
    index_version=st.sampled_from(("", "n", "q")),
    filter=st.dictionaries(st.sampled_from("abe"), st.sampled_from(("", "e", "q")), max_size=2),
)


@unhurried
@given(places, places, st.sampled_from(("", "q", "e")), st.sampled_from(("", "q", "e")))
def test_different_queries_have_different_encodings(
    one: RAGPartition, two: RAGPartition, text: str, other: str
) -> None:
    def meaning(of: RAGPartition, query: str) -> tuple[object, ...]:
        rest = (of.dimension, of.collection, of.index_version, dict(of.filter), query)
        return (of.namespace or "default", of.embedding_model, *rest)

    encodings = [
        encode_query(where, query=query, embedding=bytes(4 * where.dimension))
        for where, query in ((one, text), (two, other))
    ]
    assert (encodings[0] == encodings[1]) == (meaning(one, text) == meaning(two, other))
