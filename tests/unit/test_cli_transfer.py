"""Export and import over the in-memory store, with a clock that the tests move."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from mge_cache_server import codec
from mge_cache_server.keys import key_tag, model_tag, user_tag
from mge_cache_server.memory_store import MemoryStore
from mge_cache_server.model import Answer, Entry, EntryKey, Usage
from mge_cache_server.store import EVERYTHING
from mge_cache_server.transfer import (
    ExportReport,
    ImportReport,
    TransferError,
    export_namespace,
    import_namespace,
)

NAMESPACE = "plans"
TTL_S = 3600.0


@dataclass
class World:
    """A store and its clock."""

    now_s: float = 1_800_000_000.0
    store: MemoryStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = MemoryStore(now=lambda: self.now_s)

    async def put(self, number: int, body: bytes = b"text", *tags: str) -> EntryKey:
        key = EntryKey(NAMESPACE, bytes([number]) * 32)
        clock = (await self.store.read_epochs(NAMESPACE, -1)).clock
        answer = Answer(body, "text/plain", "model", Usage(1, 2, 3, 4), 0.5, 1.5)
        marks = (key_tag(key.digest), model_tag(answer.model), *tags)
        entry = Entry(answer, clock, 1000 + number, marks)
        await self.store.put(key, codec.encode(entry), TTL_S)
        return key

    async def export(self) -> tuple[bytes, ExportReport]:
        lines: list[str] = []
        report = await export_namespace(
            self.store,
            NAMESPACE,
            write=lines.append,
            now_s=lambda: self.now_s,
            progress=lambda _: None,
        )
        return "".join(lines).encode(), report

    async def load(self, content: bytes, *, ttl_max_s: float = 1e6) -> ImportReport:
        return await import_namespace(
            self.store,
            io.BytesIO(content),
            ttl_max_s=ttl_max_s,
            line_max_bytes=10_000,
            now_s=lambda: self.now_s,
            progress=lambda _report, _bytes: None,
        )

    async def entry(self, key: EntryKey) -> tuple[Entry, float]:
        found = await self.store.lookup(key)
        assert found.record is not None
        return codec.decode(found.record), found.remaining_s


def edited(content: bytes, line: int, **members: Any) -> bytes:
    """Change members of a line; None removes one."""
    lines = content.splitlines()
    value = json.loads(lines[line]) | members
    value = {name: each for name, each in value.items() if each is not None}
    lines[line] = json.dumps(value).encode()
    return b"\n".join(lines) + b"\n"


async def test_what_is_exported_can_be_imported_elsewhere() -> None:
    here, there = World(), World()
    keys = [
        await here.put(1),
        await here.put(2, b"\xff\x00", "tag:x"),
        await here.put(3, "ü\u2028\n".encode()),
    ]
    content, report = await here.export()
    assert (report.exported, report.invalidated, report.unreadable) == (3, 0, 0)

    there.now_s += 600
    done = await there.load(content)
    assert (done.namespace, done.imported, done.complete) == (NAMESPACE, 3, True)
    clock = (await there.store.read_epochs(NAMESPACE, -1)).clock
    for key in keys:
        before, _ = await here.entry(key)
        after, remaining_s = await there.entry(key)
        assert after.answer == before.answer
        assert (after.tags, after.created_ms) == (before.tags, before.created_ms)
        assert after.tick == clock
        assert remaining_s == pytest.approx(TTL_S - 600, abs=0.01)


async def test_nothing_invalidated_is_exported() -> None:
    world = World()
    await world.put(1, b"a", "tag:x")
    second = await world.put(2, b"b", "tag:y")
    await world.put(3, b"c", "tag:y")
    await world.store.advance(NAMESPACE, (user_tag("x"),))
    await world.store.advance(NAMESPACE, (key_tag(second.digest),))
    content, report = await world.export()
    assert (report.exported, report.invalidated) == (1, 2)
    assert content.count(b'"answer":"c"') == 1
    await world.store.advance(NAMESPACE, (EVERYTHING,))
    assert (await world.export())[1].exported == 0


async def test_a_record_of_another_version_is_left_out_and_counted() -> None:
    world = World()
    await world.store.put(EntryKey(NAMESPACE, b"k" * 32), b"\xfe newer", TTL_S)
    assert (await world.export())[1].unreadable == 1


async def test_many_entries_take_several_batches() -> None:
    world = World()
    for number in range(256):
        await world.put(number)
    world.store = world.store.sibling()
    content, report = await world.export()
    assert report.exported == 256
    assert (await World().load(content)).imported == 256


async def test_importing_again_changes_nothing() -> None:
    world = World()
    key = await world.put(1)
    content, _ = await world.export()
    before = await world.entry(key)
    report = await world.load(content)
    assert (report.imported, report.present) == (0, 1)
    assert await world.entry(key) == before


async def test_an_invalidated_entry_comes_back_by_import() -> None:
    world = World()
    key = await world.put(1)
    content, _ = await world.export()
    tick = (await world.store.advance(NAMESPACE, (EVERYTHING,))).tick
    assert (await world.load(content)).imported == 1
    assert (await world.entry(key))[0].tick >= tick


async def test_time_is_never_given_back() -> None:
    world = World()
    await world.put(1)
    content, _ = await world.export()
    later = World(now_s=world.now_s + TTL_S + 1)
    assert (await later.load(content)).expired == 1
    shorter = World(now_s=world.now_s)
    assert (await shorter.load(content, ttl_max_s=10)).imported == 1
    _, remaining_s = await shorter.entry(EntryKey(NAMESPACE, b"\x01" * 32))
    assert remaining_s == pytest.approx(10)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"key": "00"}, "line 2: key: must be 64 hexadecimal digits"),
        ({"key": "x" * 64}, "line 2: key: must be 64 hexadecimal digits"),
        ({"model": None}, "line 2: model: is required"),
        ({"answer": None}, "line 2: answer: either this or answer_base64 is required"),
        ({"answer": "SECRET", "answer_base64": ""}, "line 2: answer: either this or"),
        ({"answer": "\ud800"}, "line 2: answer: has a lone surrogate"),
        ({"answer": ""}, "line 2: answer: must not be empty"),
        ({"usage": {"SECRET": 1}}, "line 2: usage: must have only"),
        ({"usage": {"input_tokens": -1}}, "line 2: usage.input_tokens: must be from 0"),
        ({"usage": {"input_tokens": 1.5}}, "line 2: usage.input_tokens: must be a whole number"),
        ({"usage": {"input_tokens": 1 << 63}}, "line 2: usage.input_tokens: must be from 0"),
        ({"cost_usd": True}, "line 2: cost_usd: must be a number"),
        ({"cost_usd": float("nan")}, "line 2: cost_usd: must be finite"),
        ({"tags": ["a", 1]}, "line 2: tags: must be a list of texts"),
        ({"tags": ["a\nb"]}, "line 2: tags: must not contain control characters"),
        ({"created_ms": None}, "line 2: created_ms: is required"),
        ({"SECRET": 1}, "line 2: 1 unknown field(s)"),
    ],
)
async def test_a_bad_line_is_named_by_number_and_field(members: dict[str, Any], told: str) -> None:
    world = World()
    await world.put(1)
    await world.put(2)
    content, _ = await world.export()
    report = await World().load(edited(content, 1, **members))
    assert (report.imported, report.bad.count) == (1, 1)
    assert report.bad.report().startswith(told)
    assert "SECRET" not in report.bad.report()


async def test_lines_that_are_no_objects() -> None:
    world = World()
    await world.put(1)
    content, _ = await world.export()
    header, entry, end = content.splitlines(keepends=True)
    long = b'{"answer": "' + b"x" * 30_000 + b'"}\n'
    deep = b"[" * 9_000 + b"\n"
    content = header + b"SECRET\n[1]\n\n\xff\n" + long + deep + entry + end
    report = await World().load(content)
    assert (report.imported, report.complete) == (1, True)
    assert report.bad.report().splitlines() == [
        "line 2: not JSON",
        "line 3: not a JSON object",
        "line 5: not JSON",
        "line 6: longer than 10000 bytes",
        "line 7: not JSON",
    ]


async def test_only_the_first_bad_lines_are_listed() -> None:
    world = World()
    content, _ = await world.export()
    header, end = content.splitlines(keepends=True)
    report = await world.load(header + b"x\n" * 1000 + end)
    assert report.bad.count == 1000
    assert len(report.bad.report().splitlines()) == 21
    assert report.bad.report().endswith("... and 980 more bad lines")


async def test_a_file_that_was_cut_short_is_noticed() -> None:
    world = World()
    await world.put(1)
    content, _ = await world.export()
    cut = b"".join(content.splitlines(keepends=True)[:-1])
    assert not (await World().load(cut)).complete


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (b"", "not a file that"),
        (b'{"key": 1}\n', "not a file that"),
        (b'{"format":"mge-cache/export","version":2,"namespace":"a"}\n', "another version"),
        (b'{"format":"mge-cache/export","version":1,"namespace":"a b"}\n', "names no namespace"),
        (b'{"format":"mge-cache/export","version":1}\n', "names no namespace"),
    ],
)
async def test_other_files_are_refused(header: bytes, told: str) -> None:
    with pytest.raises(TransferError, match=told):
        await World().load(header)
