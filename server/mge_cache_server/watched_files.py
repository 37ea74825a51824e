"""Whether the files that the settings name can be read, looked at now and then off the loop.

Secrets are mounted files that a platform changes under way. A file that cannot be read any more is
noticed by a connection only when one is made, which may be days later.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mge_cache_server.certificates import certificate_ends_s
from mge_cache_server.config import options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mge_cache_server.config import Settings

EVERY_S = 30.0
_SUFFIX = "_file"
_READ_MAX_BYTES = 4 << 20
_AUTHORITIES = "redis_tls_ca"
_CERTIFICATES = frozenset({_AUTHORITIES, "redis_tls_cert"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileState:
    """What was found. ``ends_s`` is when a certificate ends, in seconds since 1970.

    ``problem`` says why the file cannot be used, without its path or content; "" if it can.
    """

    problem: str = ""
    ends_s: float | None = None


def configured_files(settings: Settings) -> dict[str, str]:
    """Return the path of each file that is set, by its setting's name without ``_file``."""
    return {
        option.field.removesuffix(_SUFFIX): path
        for option in options()
        if option.field.endswith(_SUFFIX) and (path := getattr(settings, option.field))
    }


class WatchedFiles:
    """Looks at files every ``every_s`` seconds once it is started. One event loop."""

    def __init__(self, paths: Mapping[str, str], *, every_s: float = EVERY_S) -> None:
        self._paths = dict(paths)
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None
        self.states: Mapping[str, FileState] = {}
        """What was found last, by the files' names; empty until the first look."""

    def start(self) -> None:
        """Begin to look, if there is any file."""
        if self._paths:
            self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End; harmless if not started."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def look(self) -> None:
        """Look now. A problem is logged when it begins and when it is over."""
        before, self.states = self.states, await asyncio.to_thread(look_at, self._paths)
        for name, state in self.states.items():
            had = before[name].problem if name in before else ""
            if state.problem and not had:
                _log.error("%s: cannot be used: %s", name, state.problem)
            elif had and not state.problem:
                _log.info("%s: can be used again", name)

    async def _watch(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)


def look_at(paths: Mapping[str, str]) -> dict[str, FileState]:
    """Read each file. Blocks."""
    return {name: _state(name, Path(path)) for name, path in paths.items()}


def _state(name: str, path: Path) -> FileState:
    try:
        with path.open("rb") as file:
            content = file.read(_READ_MAX_BYTES)
    except OSError as error:
        return FileState(error.strerror or type(error).__name__)
    if not content.strip():
        return FileState("empty")
    if name not in _CERTIFICATES:
        return FileState()
    try:
        ends = certificate_ends_s(content.decode(errors="replace"))
    except ValueError:
        return FileState("damaged certificate")
    if not ends:
        return FileState("no certificate in it")
    # A client's own comes first, before those that vouch for it. Of authorities, an old and a new
    # one may lie side by side: all is well until the last one ends.
    return FileState(ends_s=max(ends) if name == _AUTHORITIES else ends[0])
