"""``mge-cache rag`` as a process, against a real sidecar."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

from tests.e2e.commands import command
from tests.e2e.test_cli_transfer import PATIENT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.sidecars import Launch

STORE = ("rag", "store", "-m", "minilm", "-c", "faq")
QUERY = ("rag", "query", "-m", "minilm", "-c", "faq")


async def test_store_query_invalidate_stats(launch: Launch, tmp_path: Path) -> None:
    sidecar = await launch(options=PATIENT)
    near = tmp_path / "near.f32"
    near.write_bytes(struct.pack("<2f", 1.0, 0.1))
    documents = tmp_path / "found.jsonl"
    rows = [[1, 0], [0.8, 0.6], [0, 1]]
    documents.write_text(
        "".join(
            json.dumps({"id": f"d{number}", "content": f"text {number}", "embedding": row}) + "\n"
            for number, row in enumerate(rows)
        )
    )
    missed = await command(*QUERY, "-e", "-", "Why?", stdin=b"[1, 0]", target=sidecar)
    assert (missed.code, missed.out, missed.err) == (1, "", "mge-cache: miss\n")
    stored = await command(
        *(*STORE, "-e", "-", "-d", str(documents), "-k", "2", "--exact-search", "--cost", "0.25"),
        "Why?",
        stdin=b"[1, 0]",
        target=sidecar,
    )
    assert stored.code == 0, stored.err
    assert stored.out.endswith("cost $0.250000\n")
    exact = await command(*QUERY, "-k2", "-e", "-", " Why? ", stdin=b"[1, 0]", target=sidecar)
    assert [json.loads(line)["id"] for line in exact.out.splitlines()] == ["d0", "d1"]
    similar = await command(
        *QUERY, "-k2", "-e", str(near), "--certified", "--json", "Why so?", target=sidecar
    )
    assert (similar.json["kind"], similar.json["certified"]) == ("similar", True)
    assert [document["content"] for document in similar.json["documents"]] == ["text 0", "text 1"]
    shown = await command("stats", target=sidecar)
    assert "1 in 1 partitions" in shown.out
    assert "1 re-ranked, 1 certified" in shown.out
    gone = await command("invalidate", "--document", "d2", "--json", target=sidecar)
    assert gone.json["tick"] > 1_700_000_000_000_000
    for embedding, text in ((str(near), "Why so?"), (str(near), "Why?")):
        assert (await command(*QUERY, "-k2", "-e", embedding, text, target=sidecar)).code == 1
