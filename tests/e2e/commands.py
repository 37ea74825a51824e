"""The commands as processes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from tests.e2e.sidecars import Sidecar


@dataclass(frozen=True, slots=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment() -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("MGE_")}
    return {**inherited, "PYTHONPATH": os.pathsep.join(sys.path)}


async def start(*arguments: str, target: Sidecar | None = None) -> Process:
    """Start a command, with pipes to and from it."""
    at = () if target is None else ("--target", target.target)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mge_cache_server", *arguments, *at),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )


async def command(*arguments: str, stdin: bytes = b"", target: Sidecar | None = None) -> Done:
    """Run a command to its end."""
    process = await start(*arguments, target=target)
    out, err = await process.communicate(stdin)
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return Done(process.returncode, out.decode(), err.decode())


def lines(*numbers: int, **members: Any) -> bytes:
    """What warm reads: an answer a<n> for each prompt p<n>."""
    objects = ({"model": "m", "prompt": f"p{n}", "answer": f"a{n}", **members} for n in numbers)
    return b"".join(json.dumps(each).encode() + b"\n" for each in objects)
