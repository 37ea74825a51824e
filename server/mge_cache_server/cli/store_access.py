"""The way of operators' commands to the store, without a sidecar."""

from __future__ import annotations

import dataclasses
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from mge_cache_server.cli.failures import REFUSED, UNREACHABLE, USAGE, CommandError
from mge_cache_server.embedded_socket import SOCKET_NAME, ping, socket_path

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mge_cache_server.config import Settings
    from mge_cache_server.store import Store

_PATIENT_S = 5.0


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """Connect to the store that a sidecar with these settings uses; its errors end the command.

    The embedded one is that of the sidecar that runs on the folder; without one it is started for
    the time of the command.
    """
    from mge_cache_server.errors import (  # noqa: PLC0415 (not for --help)
        StoreRefusedError,
        StoreUnavailableError,
    )
    from mge_cache_server.stores import open_store as open_  # noqa: PLC0415 (not for --help)

    if settings.redis_url.startswith("memory://"):
        raise CommandError("memory:// is inside a sidecar: nobody else can reach it", USAGE)
    async with _reachable(settings) as url:
        timeout_s = max(settings.store_timeout_s, _PATIENT_S)
        patient = dataclasses.replace(settings, redis_url=url, store_timeout_s=timeout_s)
        store = open_(patient, observe=lambda _operation, _seconds: None)
        try:
            await store.start()
            yield store
        except StoreUnavailableError as error:
            raise CommandError(f"no answer from the store: {error}", UNREACHABLE) from None
        except StoreRefusedError as error:
            raise CommandError(f"the store refused: {error}", REFUSED) from None
        finally:
            await store.close()


@asynccontextmanager
async def _reachable(settings: Settings) -> AsyncIterator[str]:
    if settings.redis_url:
        yield settings.redis_url
        return
    from mge_cache_server.embedded import EmbeddedError, EmbeddedValkey  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="mge-cache-") as folder:
        running = await running_embedded(settings.data_dir, Path(folder))
        if running:
            yield running
            return
    valkey = EmbeddedValkey(settings.data_dir)
    try:
        url = await valkey.start()
    except EmbeddedError as error:
        raise CommandError(str(error), UNREACHABLE) from None
    try:
        yield url
    finally:
        await valkey.stop()


async def running_embedded(data_dir: str, folder: Path) -> str:
    """Return the URL of the embedded Valkey that runs on a folder; "" if none answers.

    ``folder`` is for a symlink, which a socket with a long path needs, while the URL is used.
    """
    path = _short_path(data_dir, folder)
    return f"unix://{quote(str(path))}" if await ping(path) else ""


def _short_path(data_dir: str, folder: Path) -> Path:
    home = Path(data_dir).expanduser().absolute()
    path = socket_path(home)
    if path is not None:
        return path
    link = folder / "data"
    link.symlink_to(home)
    return link / SOCKET_NAME
