"""``mge-cache export`` and ``import``: a namespace to a file and back, past the sidecar."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mge_cache_server.cli.failures import NEGATIVE, USAGE, CommandError
from mge_cache_server.cli.progress import shown_progress
from mge_cache_server.cli.settings_options import STORE_SETTINGS, read_settings, settings_options
from mge_cache_server.cli.sidecar import json_option, namespace_option
from mge_cache_server.cli.store_access import open_store
from mge_cache_server.keys import NAMESPACE_PATTERN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO, TextIO

    from mge_cache_server.config import Settings
    from mge_cache_server.transfer import ExportReport, ImportReport

_BASE64_GROWTH = 2  # 4/3, and room for the other members of a line


@click.command(short_help="Write a namespace's entries to a file.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@namespace_option
@json_option
@settings_options(STORE_SETTINGS)
def export(
    *,
    file: Path,
    namespace: str,
    as_json: bool,
    config: Path | None,
    **flags: str | bool | None,
) -> None:
    """Write all valid entries of a namespace to FILE (- for stdout), straight from the store.

    The store is found by the same settings as `mge-cache serve` has. The file appears when it is
    complete; it holds answers, so only its owner may read it.

    \b
      mge-cache export plans.jsonl --namespace plans --redis-url redis://old:6379/0
      mge-cache import plans.jsonl --redis-url redis://new:6379/0
    """
    if not NAMESPACE_PATTERN.fullmatch(namespace):
        raise click.UsageError("--namespace must be 1 to 64 characters of A-Z a-z 0-9 . _ -")
    settings = read_settings(config, flags)
    if not settings.redis_url and not Path(settings.data_dir).is_dir():
        # Starting a store there would report an empty namespace.
        raise CommandError(
            f"{settings.data_dir}: no such folder, so nothing to export; give the --data-dir that "
            "`mge-cache serve` prints, or --redis-url",
            USAGE,
        )
    with shown_progress("exporting", 0) as advance, _output(file) as out:
        report = asyncio.run(_export(settings, namespace, out, advance))
    counts = {
        "exported": report.exported,
        "invalidated": report.invalidated,
        "unreadable": report.unreadable,
    }
    if as_json:
        click.echo(json.dumps(counts), err=str(file) == "-")
    else:
        click.echo(
            f"{report.exported:,} exported, {report.invalidated:,} invalidated and left out, "
            f"{report.unreadable:,} unreadable and left out",
            err=True,
        )


async def _export(
    settings: Settings, namespace: str, out: TextIO, advance: Callable[[int], None]
) -> ExportReport:
    from mge_cache_server.transfer import export_namespace  # noqa: PLC0415 (not for --help)

    async with open_store(settings) as store:
        return await export_namespace(
            store,
            namespace,
            write=out.write,
            now_s=time.time,
            progress=lambda report: advance(report.exported),
        )


@contextlib.contextmanager
def _output(file: Path) -> Iterator[TextIO]:
    if str(file) == "-":
        yield sys.stdout
        return
    try:
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    except OSError as error:
        raise CommandError(f"{file}: cannot be written: {error.strerror}", USAGE) from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            yield out
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@click.command("import", short_help="Store the entries of an exported file.")
@click.argument("file", type=click.File("rb"))
@json_option
@settings_options((*STORE_SETTINGS, "ttl_max", "answer_max", "rag_index"))
def import_(
    *, file: BinaryIO, as_json: bool, config: Path | None, **flags: str | bool | None
) -> None:
    """Store the entries of FILE (- for stdin) in their namespace, straight in the store.

    What is there already stays, and nothing lives longer than it would have; so a run that was
    broken off can be repeated. Exit code 1: some lines were bad, or the file was cut short.

    Give it the sidecars' --rag-index: similar queries are then found among what was imported.

    \b
      mge-cache import plans.jsonl --redis-url redis://new:6379/0
    """
    from mge_cache_server.transfer import TransferError  # noqa: PLC0415 (not for --help)

    settings = read_settings(config, flags)
    size = os.fstat(file.fileno()).st_size if file.seekable() else 0
    try:
        with shown_progress("importing", size) as advance:
            report = asyncio.run(_import(settings, file, advance))
    except TransferError as error:
        raise CommandError(f"{file.name}: {error}", USAGE) from None
    counts = {
        "namespace": report.namespace,
        "imported": report.imported,
        "present": report.present,
        "expired": report.expired,
        "bad": report.bad.count,
        "complete": report.complete,
    }
    if as_json:
        click.echo(json.dumps(counts))
    else:
        click.echo(
            f"{report.imported:,} imported into {report.namespace}, {report.present:,} already "
            f"there, {report.expired:,} expired, {report.bad.count:,} bad"
        )
    problems = [report.bad.report()] if report.bad.count else []
    if not report.complete:
        problems.append("the file ends before its last line: it was cut short")
    if problems:
        raise CommandError("\n".join(problems), NEGATIVE)


async def _import(
    settings: Settings, file: BinaryIO, advance: Callable[[int], None]
) -> ImportReport:
    from mge_cache_server.redis_store_vectors import VectorSetsError  # noqa: PLC0415
    from mge_cache_server.stores import vectors_of  # noqa: PLC0415
    from mge_cache_server.transfer import import_namespace  # noqa: PLC0415

    async with open_store(settings) as store:
        vectors = vectors_of(store) if settings.rag_index == "vector-sets" else None
        if vectors is not None:
            try:
                await vectors.check()
            except VectorSetsError as error:
                raise CommandError(str(error), USAGE) from None
        return await import_namespace(
            store,
            file,
            vectors=vectors,
            ttl_max_s=settings.ttl_max_s,
            line_max_bytes=settings.answer_max_bytes * _BASE64_GROWTH + (1 << 20),
            now_s=time.time,
            progress=lambda _report, done: advance(done),
        )
