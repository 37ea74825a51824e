"""Export and import between real stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.commands import command, lines

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.sidecars import Launch

# These tests are not about deadlines, and share two cores with others.
PATIENT = ("--store-timeout", "10s")


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
