"""Filling a real sidecar from a file or a pipe."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.e2e.commands import command, lines, start
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.sidecars import Launch


async def test_warm_stores_and_can_be_repeated(launch: Launch) -> None:
    sidecar = await launch()
    content = lines(*range(300), cost_usd=0.1, ttl="2h", tags=["t"], parameters={"a": 1})
    warmed = await command("warm", "-", "--json", stdin=content, target=sidecar)
    assert warmed.code == 0
    assert warmed.json["stored"] == 300
    again = await command("warm", "-", "--json", stdin=content + lines(300), target=sidecar)
    assert (again.json["stored"], again.json["present"]) == (1, 300)
    fresh = await command("warm", "-", "--json", "--refresh", stdin=content, target=sidecar)
    assert fresh.json["stored"] == 300
    found = await command("get", "-m", "m", "-p", "a=1", "p7", "--json", target=sidecar)
    assert found.json["answer"] == "a7"
    assert found.json["cost_saved_usd"] == 0.1
    assert 6000 < found.json["remaining_ttl_s"] < 8000
    figures = (await command("stats", "--json", target=sidecar)).json
    assert figures["layers"][0]["spent_usd"] == 0


async def test_warm_names_bad_lines_and_stores_the_others(launch: Launch, tmp_path: Path) -> None:
    sidecar = await launch(options=("--answer-max", "100"))
    file = tmp_path / "answers.jsonl"
    file.write_bytes(
        lines(1)
        + b"SECRET\n"
        + b"\n"
        + lines(2, answer="x" * 101)
        + lines(3, ttl="SECRET")
        + lines(4, SECRET=1)
        + lines(5, parameters={"SECRET": float("inf")})
        + b'{"model": "m", "key": "00", "answer": "x"}\n'
        + b'{"model": "m", "key": "' + b"0f" * 32 + b'", "answer": "x", "temperature": 1}\n'
        + b'{"prompt": "p", "answer": "x"}\n'
        + lines(6)
    )  # fmt: skip
    warmed = await command("warm", str(file), target=sidecar)
    assert warmed.code == 1
    assert warmed.out == "2 stored, 0 already there, 8 bad\n"
    assert "SECRET" not in warmed.err
    told = {int(n): rest for n, rest in re.findall(r"line (\d+): (.*)", warmed.err)}
    assert {n: text.partition(":")[0] for n, text in told.items()} == {
        2: "not JSON",
        4: "answer",
        5: "ttl",
        6: "1 unknown field(s); known",
        7: "parameters",
        8: "key",
        9: "temperature",
        10: "model",
    }


async def test_warm_goes_on_after_a_line_that_is_larger_than_a_message_may_be(
    launch: Launch,
) -> None:
    sidecar = await launch()
    content = lines(1) + lines(2, answer="x" * (30 << 20)) + lines(3, answer="x" * (17 << 20))
    warmed = await command("warm", "-", stdin=content + lines(4), target=sidecar)
    assert warmed.code == 1
    assert warmed.out == "2 stored, 0 already there, 2 bad\n"
    told = dict(re.findall(r"line (\d+): (.*)", warmed.err))
    assert sorted(told) == ["2", "3"]
    assert "larger than the sidecar takes" in told["2"]
    assert told["3"].startswith("answer: ")


async def test_strict_warming_stops_at_a_bad_line(launch: Launch) -> None:
    sidecar = await launch()
    content = lines(1) + b"bad\n" + lines(*range(2, 50))
    warmed = await command("warm", "-", "--strict", "--json", stdin=content, target=sidecar)
    assert warmed.code == 1
    assert warmed.json["bad"] == 1
    assert warmed.json["stored"] <= 1


async def test_warm_goes_on_while_its_stdin_is_silent(launch: Launch) -> None:
    sidecar = await launch()
    process = await start("warm", "-", target=sidecar)
    assert process.stdin is not None
    process.stdin.write(lines(1))

    async def is_stored() -> bool:
        return (await command("get", "-m", "m", "p1", target=sidecar)).code == 0

    await eventually(is_stored, within_s=20)
    out, _ = await process.communicate(lines(2))
    assert out == b"2 stored, 0 already there, 0 bad\n"


async def test_warm_without_a_sidecar_is_3(tmp_path: Path) -> None:
    warmed = await command(
        "warm", "-", "--target", f"unix:{tmp_path}/none", stdin=lines(*range(100))
    )
    assert warmed.code == 3
    assert len(warmed.err.splitlines()) == 1
