"""The command line in this process, against a sidecar in the test's event loop."""

from __future__ import annotations

import asyncio
import io
import tempfile
from typing import TYPE_CHECKING

from mge_cache_server.cli.main import run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Terminal:
    """Runs commands in a folder."""

    def __init__(
        self,
        target: str,
        folder: Path,
        patch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.folder = folder
        self._target = target
        self._patch = patch
        self._capsys = capsys

    def file(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        """Run a command; returns its exit code, stdout and stderr."""
        self._patch.chdir(self.folder)
        with tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            self._patch.setattr("sys.stdin", io.TextIOWrapper(file))
            code = await asyncio.to_thread(run, [*arguments, "--target", self._target])
        out, err = self._capsys.readouterr()
        return code, out, err
