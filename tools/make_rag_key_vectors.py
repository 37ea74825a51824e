"""Writes protos/mge_cache/v1/rag_key_vectors.json, the examples for clients in other languages.

    python -m tools.make_rag_key_vectors [--check] [FILE]

The file is for reading by machines, and pure ASCII.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mge_cache._rag_key import (
    FLOAT_BYTES,
    RAGPartition,
    encode_partition,
    encode_query,
    normalised_query,
    partition_key,
    query_key,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

VECTORS = Path(__file__).parent.parent / "protos/mge_cache/v1/rag_key_vectors.json"

ABOUT = (
    "Examples of the canonical keys of a retrieval, which the head of cache_service.proto "
    "specifies. `embedding` has the bytes as they are sent (float32, little-endian), hexadecimal; "
    "`partition_encoding` and `query_encoding` are what is hashed, `partition_key` and `query_key` "
    "their SHA-256, all in hexadecimal. Vectors with the same `partition` have the same partition, "
    "those that have the same `group` too are the same query; all others differ. In `queries`, "
    "`normalised` is the form of a text in which it is hashed."
)


def _floats(*numbers: float) -> str:
    return struct.pack(f"<{len(numbers)}f", *numbers).hex()


# name: what differs from the first one; `partition` and `group` where they must not differ
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("plain", {"partition": "plain", "group": "plain"}),
    (
        "empty namespace means default",
        {"namespace": "", "partition": "plain", "group": "plain"},
    ),
    (
        "with a text, the embedding only tells the dimension",
        {"embedding": _floats(0.0, 1.0), "partition": "plain", "group": "plain"},
    ),
    (
        "white space at the ends and in runs",
        {
            "query": "\u3000\twhere is\u00a0\r\n the\u2003\u2028station? ",
            "partition": "plain",
            "group": "plain",
        },
    ),
    ("another text", {"query": "where is the Station?", "partition": "plain"}),
    ("no text: the embedding", {"query": "", "partition": "plain", "group": "embedding"}),
    (
        "white space alone is no text",
        {"query": " \t\u2029", "partition": "plain", "group": "embedding"},
    ),
    (
        "the embedding as it was sent, not normalised",
        {"query": "", "embedding": _floats(2.0, 0.0), "partition": "plain"},
    ),
    (
        "its bytes count, so -0 is another one",
        {"query": "", "embedding": _floats(1.0, -0.0), "partition": "plain"},
    ),
    ("composed umlaut", {"query": "\u00fc", "partition": "plain", "group": "umlaut"}),
    ("decomposed umlaut", {"query": "u\u0308", "partition": "plain", "group": "umlaut"}),
    ("a ligature is not taken apart", {"query": "\ufb01", "partition": "plain"}),
    ("a zero width space is no white space", {"query": "where\u200bis", "partition": "plain"}),
    ("another namespace", {"namespace": "default2"}),
    ("another embedding model", {"embedding_model": "model-b"}),
    ("another dimension", {"embedding": _floats(1.0, 0.0, 0.0)}),
    ("a collection", {"collection": "faq"}),
    ("an index version", {"index_version": "faq"}),
    ("a boundary moved", {"collection": "fa", "index_version": "q"}),
    ("a collection is not normalised", {"collection": "u\u0308"}),
    ("one condition", {"filter": {"lang": "de"}}),
    ("a condition with an empty text", {"filter": {"lang": ""}}),
    (
        "two conditions",
        {"filter": {"lang": "de", "area": "law"}, "partition": "two", "group": "two"},
    ),
    (
        "two conditions, in another order",
        {"filter": {"area": "law", "lang": "de"}, "partition": "two", "group": "two"},
    ),
    (
        # U+1F600 is after U+FB33 by its bytes, before it by UTF-16 code units
        "names in the order of their bytes",
        {"filter": {"\U0001f600": "1", "\ufb33": "2", "z": "3", "Z": "4"}},
    ),
)

QUERIES = (
    "",
    "plain",
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0",
    "a\u1680b\u2000c\u200ad\u2028e\u2029f\u202fg\u205fh\u3000i",
    "a\u180eb\u200bc\u2060d\ufeffe",
    "e\u0301\u0323",
    "\u1100\u1161\u11a8",
    "\u212b \ufb01 \u2460",
)


def key_vector(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Compute one vector."""
    fields: dict[str, Any] = {
        "namespace": "default",
        "embedding_model": "model-a",
        "embedding": _floats(1.0, 0.0),
        "collection": "",
        "index_version": "",
        "filter": {},
        "query": "where is the station?",
        **changes,
    }
    names = {"partition": fields.pop("partition", name), "group": fields.pop("group", name)}
    embedding = bytes.fromhex(fields["embedding"])
    partition = RAGPartition(
        namespace=fields["namespace"],
        embedding_model=fields["embedding_model"],
        dimension=len(embedding) // FLOAT_BYTES,
        collection=fields["collection"],
        index_version=fields["index_version"],
        filter=fields["filter"],
    )
    text = fields["query"]
    return {
        "name": name,
        **names,
        **fields,
        "partition_encoding": encode_partition(partition).hex(),
        "partition_key": partition_key(partition).hex(),
        "query_encoding": encode_query(partition, query=text, embedding=embedding).hex(),
        "query_key": query_key(partition, query=text, embedding=embedding).hex(),
    }


def vectors() -> str:
    """Return the text of the file."""
    content = {
        "about": ABOUT,
        "keys": [key_vector(name, changes) for name, changes in CASES],
        "queries": [{"input": text, "normalised": normalised_query(text)} for text in QUERIES],
    }
    return json.dumps(content, indent=2) + "\n"


def main(arguments: list[str]) -> int:
    """Write the file, or with --check say whether it is up to date."""
    names = [argument for argument in arguments if argument != "--check"]
    file = Path(names[0]) if names else VECTORS
    if "--check" not in arguments:
        file.write_text(vectors(), encoding="ascii")
        return 0
    if file.read_text(encoding="ascii") == vectors():
        return 0
    print(f"{file} is stale: python -m tools.make_rag_key_vectors", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
