from __future__ import annotations

import copy
import ctypes
import math
import pickle
import struct
import subprocess
import sys
from array import array
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mge_cache import (
    InternalError,
    InvalidRequestError,
    RagDocument,
    RagHit,
    RagHitKind,
    RagQuery,
    Source,
    _wire_rag,
)
from mge_cache._embedding import embedding_bytes
from mge_cache.v1 import cache_service_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

ROW = (0.5, -2.0, 3.25)
WIRE = struct.pack("<3f", *ROW)


class Foreign:
    """An array of a library that shows no memory."""

    dtype = "float32"

    def tobytes(self) -> bytes:
        return array("f", ROW).tobytes()


@pytest.mark.parametrize(
    "given",
    [
        WIRE,
        bytearray(WIRE),
        memoryview(WIRE),
        list(ROW),
        ROW,
        array("f", ROW),
        array("d", ROW),
        (ctypes.c_float * 3)(*ROW),
        np.array(ROW, "f4"),
        np.array(ROW, "f8"),
        np.array([ROW, ROW], "f4")[1],
        np.array([[each, 0] for each in ROW], "f4")[:, 0],
        list(np.array(ROW, "f4")),
        [1 / 2, -2, np.float64(3.25)],
        Foreign(),
    ],
    ids=lambda given: type(given).__name__,
)
def test_embeddings(given: object) -> None:
    assert embedding_bytes("embedding", given) == WIRE  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([], "dimensions, not 0"),
        (b"", "dimensions, not 0"),
        ([0.0, -0.0], "not be all 0"),
        (bytes(8), "not be all 0"),
        ([1.0, math.nan], "finite"),
        ([math.inf, -math.inf], "finite"),
        ([1e39], "finite"),
        (struct.pack("<2f", 1, math.nan), "finite"),
        ([1.0] * 8193, "not 8193"),
        (bytes(7), "4 bytes"),
        ("abc", "numbers"),
        (["a"], "numbers"),
        ([[1.0]], "numbers"),
        (7, "numbers"),
        (None, "numbers"),
        (np.ones((1, 3), "f4"), "one axis"),
        (np.ones(3, "f2"), "float32"),
        (np.ones(4, "u1"), "float32"),
        (np.ones(3, ">f4" if sys.byteorder == "little" else "<f4"), "float32"),
        (np.ones(3, "i8"), "float32"),
    ],
)
def test_what_is_no_embedding(given: object, problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        embedding_bytes("documents[3].embedding", given)  # type: ignore[arg-type]
    assert caught.value.field == "documents[3].embedding"


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1).filter(any))
def test_numbers_and_their_bytes_are_the_same(row: list[float]) -> None:
    packed = struct.pack(f"<{len(row)}f", *row)
    assert embedding_bytes("e", row) == embedding_bytes("e", packed) == packed
    assert embedding_bytes("e", np.array(row, "f4")) == packed


def test_huge_but_finite() -> None:
    assert embedding_bytes("e", [3.4e38] * 8192) == struct.pack("<f", 3.4e38) * 8192


def query(**changes: object) -> RagQuery:
    given = {"embedding_model": "m", "embedding": [1.0, 2.0], "query": "Why is  it?", **changes}
    return RagQuery(**given)  # type: ignore[arg-type]


def test_queries_are_equal_if_their_keys_are() -> None:
    assert query() == query(query=" Why is it? ", namespace="default") == query(namespace="")
    assert query() == query(embedding=[2.0, 1.0])  # the text says which query it is
    assert query(query="") != query(query="", embedding=[2.0, 1.0])
    changes: list[dict[str, object]] = [
        {"embedding_model": "n"},
        {"embedding": [1.0, 2.0, 3.0]},
        {"query": "Why not?"},
        {"collection": "c"},
        {"index_version": "2"},
        {"filter": {"a": "b"}},
        {"namespace": "other"},
    ]
    for change in changes:
        assert query(**change) != query()
    assert len({query(), query()}) == 1
    assert (query().dimension, len(query().key)) == (2, 32)


def test_values_are_read_once() -> None:
    embedding, conditions, metadata = [1.0, 2.0], {"a": "b"}, {"c": "d"}
    asked = query(embedding=embedding, filter=conditions)
    found = RagDocument("d", metadata=metadata, embedding=embedding)
    embedding[0], conditions["a"], metadata["c"] = 9.0, "x", "x"
    assert asked.vector == found.vector == struct.pack("<2f", 1, 2)
    assert (asked.filter, found.metadata) == ({"a": "b"}, {"c": "d"})


def test_mistakes_name_the_field() -> None:
    mistakes: dict[str, object] = {
        "embedding_model": "",
        "embedding": [0.0],
        "filter": {"a": 1},
        "query": "\ud800",
    }
    for field, value in mistakes.items():
        with pytest.raises(InvalidRequestError) as caught:
            query(**{field: value})
        assert caught.value.field == field
    with pytest.raises(InvalidRequestError, match="id"):
        RagDocument("")
    with pytest.raises(InvalidRequestError, match="metadata"):
        RagDocument("d", metadata={"page": 1})  # type: ignore[dict-item]
    with pytest.raises(InvalidRequestError, match="embedding"):
        RagDocument("d", embedding=[math.nan])


def test_nothing_secret_in_a_repr() -> None:
    asked = query(query="SECRET", filter={"user": "SECRET"})
    found = RagDocument("d", b"SECRET", metadata={"title": "SECRET"}, embedding=[1.0])
    for value in (asked, found):
        assert "SECRET" not in repr(value)
        assert "vector" not in repr(value)
    assert asked.key.hex() not in repr(asked)
    assert found.text == "SECRET"


def test_the_client_does_not_import_numpy(repository: Path) -> None:
    code = "import sys, mge_cache; sys.exit('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository / "client", check=False)
    assert done.returncode == 0


def test_documents_can_be_copied_sent_and_hashed() -> None:
    found = RagDocument("d", b"text", score=0.5, metadata={"a": "b"}, embedding=[1.0])
    assert pickle.loads(pickle.dumps(found)) == copy.deepcopy(found) == found  # noqa: S301
    assert len({found, copy.copy(found)}) == 1


def test_a_similar_hit_is_read_whole() -> None:
    hit = pb.RAGHit(
        kind=pb.RAG_HIT_KIND_SIMILAR,
        similarity=0.97,
        cached_query="Why's the sky blue?",
        documents=[pb.RAGDocument(id="d", score=0.5, content=b"\xff")],
        reranked=True,
        certified=True,
        layer=pb.HIT_LAYER_STORE,
        degraded=True,
    )
    found = _wire_rag.found_of(pb.QueryRAGResponse(hit=hit))
    assert found == RagHit(
        documents=(RagDocument("d", b"\xff", score=0.5),),
        kind=RagHitKind.SIMILAR,
        similarity=0.97,
        age_s=0,
        remaining_ttl_s=0,
        source=Source.STORE,
        cached_query="Why's the sky blue?",
        reranked=True,
        certified=True,
        degraded=True,
    )


def test_responses_that_make_no_sense() -> None:
    for response in (
        pb.QueryRAGResponse(),
        pb.QueryRAGResponse(hit=pb.RAGHit(layer=pb.HIT_LAYER_L1)),
        pb.QueryRAGResponse(hit=pb.RAGHit(kind=pb.RAG_HIT_KIND_EXACT)),
    ):
        with pytest.raises(InternalError):
            _wire_rag.found_of(response)
