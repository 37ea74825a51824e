"""``mge-cache generate --file``: many requests, their answers as they arrive."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

import click

from mge_cache_server.cli.failures import NEGATIVE, UNREACHABLE, CommandError
from mge_cache_server.cli.generate_input import parameters_of, read_line
from mge_cache_server.cli.generate_output import failure_members, members_of
from mge_cache_server.cli.progress import shown_progress
from mge_cache_server.cli.sidecar import patient_timeouts, sidecar_errors, usage_errors
from mge_cache_server.config_parse import parse_size
from mge_cache_server.jsonl import BadLines, FieldError, read_lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import BinaryIO

    from mge_cache import AsyncClient, Generated, PromptRequest
    from mge_cache_server.cli.generate_input import Wish
    from mge_cache_server.jsonl import Line

_LINE_MAX_BYTES = parse_size("64MiB")


def run_file(file: BinaryIO, wish: Wish, *, target: str | None, concurrency: int) -> None:
    """Answer the requests of a file; end the command with 1 if some could not be."""
    from mge_cache import AsyncClient  # noqa: PLC0415 (not for `serve`)

    parameters_of(wish)  # mistakes in the options are none of the lines'
    size = os.fstat(file.fileno()).st_size if file.seekable() else 0

    async def work(advance: Callable[[int], None]) -> _Run:
        with usage_errors():
            client = AsyncClient(target, timeouts=patient_timeouts())
        async with client:
            run = _Run(client, wish, advance)
            with sidecar_errors(client.target), usage_errors():
                await run.answer(file, concurrency)
        return run

    with shown_progress("generating", size) as advance:
        run = asyncio.run(work(advance))
    run.report()


class _Run:
    """Answers lines, and remembers what became of them."""

    def __init__(self, client: AsyncClient, wish: Wish, advance: Callable[[int], None]) -> None:
        self._client = client
        self._wish = wish
        self._advance = advance
        self._lines: dict[int, Line] = {}
        self._bad = BadLines()
        self._answered = 0
        self._failed = 0
        self._unreached = 0
        self._cost_usd = 0.0
        self._saved_usd = 0.0

    async def answer(self, file: BinaryIO, concurrency: int) -> None:
        """Print a JSON line for each request, when its end is known."""
        ends = self._client.generate_many(
            self._requests(file), max_in_flight=concurrency, **self._wish.options()
        )
        async for end in ends:
            line = self._lines.pop(end.index)
            told = {"line": line.number, **self._count(end)}
            click.echo(json.dumps(told, ensure_ascii=False))
            self._advance(line.end)

    def report(self) -> None:
        """Say what it took; end the command if something is missing."""
        took = f"${self._cost_usd:.6f}, saved ${self._saved_usd:.6f}"
        click.echo(f"mge-cache: {self._answered:,} answered, {took}", err=True)
        lines = [f"{self._failed:,} failed"] if self._failed else []
        if self._bad.count:
            lines.append(self._bad.report())
        if lines:
            nobody = self._unreached and self._unreached == self._failed and not self._answered
            raise CommandError("\n".join(lines), UNREACHABLE if nobody else NEGATIVE)

    async def _requests(self, file: BinaryIO) -> AsyncIterator[PromptRequest]:
        unread: list[tuple[int, Exception]] = []
        lines = read_lines(
            file, line_max_bytes=_LINE_MAX_BYTES, bad=lambda *mistake: unread.append(mistake)
        )
        index = 0
        # In a thread: while a pipe has nothing to read, requests under way must go on.
        while line := await asyncio.to_thread(next, lines, None):
            try:
                request = read_line(self._wish, line)
            except FieldError as error:
                unread.append((line.number, error))
            else:
                self._lines[index] = line
                index += 1
                yield request
            self._take_over(unread)
        self._take_over(unread)

    def _take_over(self, mistakes: list[tuple[int, Exception]]) -> None:
        for number, error in mistakes:
            self._bad.add(number, error)
        mistakes.clear()

    def _count(self, end: Generated) -> dict[str, object]:
        from mge_cache import DeadlineExceededError, UnavailableError  # noqa: PLC0415

        if end.error is not None:
            self._failed += 1
            unreached = isinstance(end.error, (UnavailableError, DeadlineExceededError))
            self._unreached += unreached
            return failure_members(end.error)
        completion = end.result()
        self._answered += 1
        self._cost_usd += completion.cost_usd
        self._saved_usd += completion.cost_saved_usd
        return members_of(completion)
