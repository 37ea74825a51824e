"""``mge-cache warm``: stores the answers of a file through a running sidecar."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from mge_cache_server.cli.failures import NEGATIVE, REFUSED, CommandError
from mge_cache_server.cli.progress import shown_progress
from mge_cache_server.cli.sidecar import (
    json_option,
    namespace_option,
    patient_timeouts,
    sidecar_errors,
    target_option,
    usage_errors,
)
from mge_cache_server.config_parse import parse_size
from mge_cache_server.jsonl import BadLines, read_lines

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from mge_cache import AsyncClient
    from mge_cache_server.cli.warm_lines import WarmLine

_LINE_MAX_BYTES = parse_size("64MiB")


@dataclass(slots=True)
class WarmReport:
    """What became of the lines. ``kept_locally``: only the sidecar has it, its store is down."""

    stored: int = 0
    present: int = 0
    kept_locally: int = 0
    overtaken: int = 0
    bad: BadLines = field(default_factory=BadLines)


class StrictStopError(Exception):
    """A line is bad, and ``--strict`` was given."""


@click.command(short_help="Store the answers of a JSON Lines file.")
@click.argument("file", type=click.File("rb"))
@target_option
@namespace_option
@click.option("-c", "--concurrency", type=click.IntRange(1, 64), default=16, show_default=True)
@click.option("--refresh", is_flag=True, help="Store again what is there already.")
@click.option("--strict", is_flag=True, help="Stop at the first bad line.")
@json_option
def warm(
    *,
    file: BinaryIO,
    target: str | None,
    namespace: str,
    concurrency: int,
    refresh: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Store the answers of FILE (- for stdin), so that the first to ask need not pay.

    Their cost does not count as spent. What is there already is skipped, so a run that was broken
    off can be repeated. Exit code 1: some lines were bad; they are named by number and field.

    Each line is a JSON object. Required: model, prompt (or key: 64 hexadecimal digits), answer (or
    answer_base64). Optional: temperature, parameters (an object: system, max_tokens, ...),
    content_type, usage (input_tokens, output_tokens, cache_read_tokens, cache_write_tokens),
    cost_usd, compute_s, ttl ("24h" or seconds), masterplan, tags (a list).

    \b
      {"model": "claude-sonnet-4-5", "prompt": "Why is the sky blue?", "answer": "Rayleigh ..."}
      mge-cache warm answers.jsonl
      zcat answers.jsonl.gz | mge-cache warm - --namespace search
    """
    from mge_cache import AsyncClient  # noqa: PLC0415 (not for `serve`)

    report = WarmReport()
    size = os.fstat(file.fileno()).st_size if file.seekable() else 0

    async def work(advance: Callable[[int], None]) -> None:
        with usage_errors():
            client = AsyncClient(target, timeouts=patient_timeouts())
        async with client:
            filler = _Filler(client, report, advance, refresh=refresh, strict=strict)
            with sidecar_errors(client.target):
                await filler.run(file, namespace, concurrency)

    try:
        with shown_progress("warming", size) as advance:
            asyncio.run(work(advance))
    except StrictStopError:
        pass  # the report says it
    finally:
        _print(report, as_json=as_json)
    if report.bad.count:
        raise CommandError(report.bad.report(), NEGATIVE)
    if report.kept_locally or report.overtaken:
        raise CommandError("not all answers are in the store: run it again", NEGATIVE)


class _Filler:
    """Stores lines, a bounded number of them at once."""

    def __init__(
        self,
        client: AsyncClient,
        report: WarmReport,
        advance: Callable[[int], None],
        *,
        refresh: bool,
        strict: bool,
    ) -> None:
        self._client = client
        self._report = report
        self._advance = advance
        self._refresh = refresh
        self._strict = strict

    async def run(self, file: BinaryIO, namespace: str, concurrency: int) -> None:
        """Read the whole file. The first failure of the sidecar ends it."""
        from mge_cache_server.cli.warm_lines import parse_line  # noqa: PLC0415 (the client)
        from mge_cache_server.jsonl import FieldError  # noqa: PLC0415

        slots = asyncio.Semaphore(concurrency)
        unread: list[tuple[int, Exception]] = []
        lines = read_lines(
            file, line_max_bytes=_LINE_MAX_BYTES, bad=lambda *mistake: unread.append(mistake)
        )
        try:
            async with asyncio.TaskGroup() as group:
                # In a thread: while a pipe has nothing to read, calls in flight must go on.
                while line := await asyncio.to_thread(next, lines, None):
                    self._take_over(unread)
                    try:
                        parsed = parse_line(line, namespace)
                    except FieldError as error:
                        self._bad(line.number, error)
                        continue
                    await slots.acquire()
                    task = group.create_task(self._store(parsed))
                    task.add_done_callback(lambda _: slots.release())
                self._take_over(unread)
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None

    def _take_over(self, mistakes: list[tuple[int, Exception]]) -> None:
        for number, error in mistakes:
            self._bad(number, error)
        mistakes.clear()

    def _bad(self, number: int, error: Exception) -> None:
        self._report.bad.add(number, error)
        if self._strict:
            raise StrictStopError

    async def _store(self, line: WarmLine) -> None:
        from mge_cache import Hit, InvalidRequestError, SetStatus  # noqa: PLC0415

        report = self._report
        try:
            if not self._refresh and isinstance(await self._client.get(line.request), Hit):
                report.present += 1
                return
            result = await self._client.set(
                line.request,
                line.answer,
                ttl_s=line.ttl_s,
                masterplan=line.masterplan,
                tags=line.tags,
                compute_s=line.compute_s,
                preloaded=True,
            )
        except InvalidRequestError as error:
            self._bad(line.number, error)  # it names the limit, and mostly the field
            return
        finally:
            self._advance(line.end)
        match result.status:
            case SetStatus.STORED:
                report.stored += 1
            case SetStatus.KEPT_LOCALLY:
                report.kept_locally += 1
            case SetStatus.OVERTAKEN:
                report.overtaken += 1
            case SetStatus.DISABLED:
                raise CommandError("the cache is switched off", REFUSED)


def _print(report: WarmReport, *, as_json: bool) -> None:
    counts = {
        "stored": report.stored,
        "present": report.present,
        "kept_locally": report.kept_locally,
        "overtaken": report.overtaken,
        "bad": report.bad.count,
    }
    if as_json:
        click.echo(json.dumps(counts))
        return
    named = [
        f"{report.stored:,} stored",
        f"{report.present:,} already there",
        *([f"{report.kept_locally:,} kept by the sidecar only"] if report.kept_locally else []),
        *([f"{report.overtaken:,} overtaken by invalidations"] if report.overtaken else []),
        f"{report.bad.count:,} bad",
    ]
    click.echo(", ".join(named))
    sys.stdout.flush()
