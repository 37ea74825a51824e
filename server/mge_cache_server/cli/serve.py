"""``mge-cache serve``: the sidecar. It imports nothing that only the other commands need."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mge_cache._version import __version__
from mge_cache_server.addresses import listen_problems
from mge_cache_server.cli.failures import INTERRUPTED, NEGATIVE, USAGE, CommandError
from mge_cache_server.cli.settings_options import read_settings, settings_options
from mge_cache_server.config_parse import mask_url
from mge_cache_server.logs import configure_logging

if TYPE_CHECKING:
    from mge_cache_server.app import App
    from mge_cache_server.config import Settings

DEFAULT_TARGET = "127.0.0.1:50151"

_log = logging.getLogger(__name__)


@click.command(short_help="Run the sidecar.")
@settings_options()
def serve(config: Path | None, **flags: str | bool | None) -> None:
    """Run the sidecar until SIGTERM or Ctrl-C; a second one does not wait for calls in flight.

    \b
      mge-cache serve                                       an embedded Valkey, no other needs
      mge-cache serve --redis-url rediss://redis:6379/0 --redis-password-file /run/secrets/redis
      mge-cache serve --unix-socket /run/mge-cache/s.sock --listen ""

    SIGTERM, but not Ctrl-C, leaves everything served for --shutdown-delay.

    Flags win over the environment, the environment over the file. Durations are written 50ms, 10s,
    1h30m, 7d; sizes 64MiB, 512KiB.
    """
    import uvloop  # noqa: PLC0415 (the docs are built without it)

    settings = read_settings(config, flags)
    configure_logging(level=settings.log_level, form=settings.log_format)
    uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    from mge_cache_server.errors import MgeError  # noqa: PLC0415 (after the settings' mistakes)
    from mge_cache_server.prices import PricesFileError  # noqa: PLC0415

    try:
        await _run(settings)
    except PricesFileError as error:
        raise CommandError(f"--prices-file: {error}", USAGE) from error
    except MgeError as error:
        raise CommandError(str(error), NEGATIVE) from error
    except (OSError, RuntimeError) as error:
        # gRPC says only that it "failed to bind". All that did start has ended by now, so trying
        # the addresses ourselves tells which one it was, and why.
        problems = await asyncio.to_thread(listen_problems, settings)
        text = "\n".join(problems) or f"cannot start: {error}"
        raise CommandError(text, NEGATIVE) from error


async def _run(settings: Settings) -> None:
    gc.disable()  # until all is there that stays: see _settle_down
    from mge_cache_server.app import build  # noqa: PLC0415

    asked_to_stop: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()
    _handle_signals(asked_to_stop)
    app = build(settings)
    starting = asyncio.ensure_future(app.start())
    try:
        await asyncio.wait((starting, asked_to_stop), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            _settle_down()
            _announce(app, settings)
            await _linger(app, await asked_to_stop, settings.shutdown_delay_s)
        _log.info("stopping")
    finally:
        gc.enable()
        starting.cancel()
        await asyncio.wait((starting,))
        await app.stop()
    _log.info("stopped")


def _settle_down() -> None:
    """Have the garbage collector look at new objects only.

    Going through all that the imports have left takes 20 to 60 ms, in which nobody is answered.
    """
    gc.freeze()
    gc.enable()


async def _linger(app: App, asked_by: signal.Signals, delay_s: float) -> None:
    """Serve on for ``delay_s``, unless it was Ctrl-C.

    A pod's containers get SIGTERM together, and the application may need its cache for what it has
    begun. Who presses Ctrl-C waits for nothing.
    """
    if asked_by is signal.SIGTERM and delay_s:
        app.announce_end()
        _log.info("serving on before the end", extra={"delay_s": delay_s})
        await asyncio.sleep(delay_s)


def _handle_signals(asked_to_stop: asyncio.Future[signal.Signals]) -> None:
    def stop(number: signal.Signals) -> None:
        if asked_to_stop.done():
            # Whoever asks twice does not want to wait; the kernel ends the embedded server.
            os._exit(INTERRUPTED)
        asked_to_stop.set_result(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)


def _announce(app: App, settings: Settings) -> None:
    http = f"http://{app.http_address}" if app.http_address else "off"
    store = mask_url(settings.redis_url) or f"embedded Valkey, data in {settings.data_dir}"
    if not (sys.stderr.isatty() and sys.stdout.isatty()):  # who sees both needs only one
        _log.info(
            "ready",
            extra={"targets": app.targets, "http": http, "store": store, "version": __version__},
        )
    target = app.targets[0] if DEFAULT_TARGET not in app.targets else ""
    click.echo(
        f"mge-cache {__version__} is ready\n"
        f"  gRPC   {', '.join(app.targets)}\n"
        f"  HTTP   {http}{' (/metrics, /metrics/cache/statistics)' if app.http_address else ''}\n"
        f"  store  {store}\n"
        f"Try it from another terminal:\n  {try_line(command_name(), target)}"
    )
    sys.stdout.flush()


def try_line(command: str, target: str) -> str:
    """Return a line to paste into another terminal: it stores an answer and looks it up."""
    where = f" --target {shlex.quote(target)}" if target else ""
    stored = f'{command} set{where} --model demo --answer "Hi there" "Hello"'
    return f'{stored} && {command} get{where} --model demo "Hello"'


def command_name() -> str:
    """Say how this program is called from the folder that it was started in."""
    script = Path(sys.argv[0])
    if script.name == "__main__.py":
        return f"{shlex.quote(_from_here(Path(sys.executable)))} -m mge_cache_server"
    found = shutil.which(script.name)
    if found and Path(found).resolve() == script.resolve():
        return shlex.quote(script.name)
    return shlex.quote(_from_here(script))


def _from_here(path: Path) -> str:
    absolute = path.absolute()
    here = Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)
