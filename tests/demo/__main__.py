"""Runs the demo. Exits with 0 if all accounts agree, 1 if not, 130 after Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import anthropic
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mge_cache import AsyncClient, Source, Timeouts
from tests.bench import servers
from tests.bench.processes import Process, StartError, python
from tests.bench.running import INTERRUPTED, StoppedError, run
from tests.demo.accounts import compare, read_served
from tests.demo.batching import NAMESPACE as ATOMS_NAMESPACE
from tests.demo.batching import atoms, compare_atoms, run_plan
from tests.demo.options import Options, parse
from tests.demo.questions import ask
from tests.demo.retrieval import NAMESPACE as RAG_NAMESPACE
from tests.demo.retrieval import Searcher, answer_all, compare_retrievals
from tests.demo.show import Outcome, show
from tests.demo.texts import collect
from tests.demo.work import (
    NAMESPACE,
    CallFailedError,
    Done,
    Explainer,
    Finished,
    work_through,
    zipf_sequence,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from rich.progress import TaskID

    from tests.demo.batching import Batched
    from tests.demo.retrieval import Retrieved
    from tests.demo.texts import Text

_START_S = 20.0
_LOG_CHARS = 2000
_PATIENT = Timeouts(get_s=5.0, set_s=5.0, stats_s=5.0)
"""The demo's accounts must match to the call, on a machine that is busy too."""


@contextlib.asynccontextmanager
async def messages_server(folder: Path, delay: float) -> AsyncIterator[str]:
    """Run the Messages server; yields its base URL."""
    command = python("tests.messages_server", "--delay", str(delay))
    process = Process(command, log=folder / "messages.log")
    try:
        deadline = monotonic() + _START_S
        while "\n" not in process.output():
            if not process.running or monotonic() > deadline:
                raise StartError(f"the Messages server does not start:\n{process.output()}")
            await asyncio.sleep(0.02)
        yield process.output().splitlines()[0]
    finally:
        process.stop()


def _sidecar(folder: Path, base_url: str) -> AbstractAsyncContextManager[servers.Server]:
    options = ("--data-dir", str(folder / "data"), "--rag-store-texts")
    environment = {"ANTHROPIC_API_KEY": "none-needed", "ANTHROPIC_BASE_URL": base_url}
    return servers.sidecar(folder, "sidecar", *options, environment=environment)


async def _run(options: Options, folder: Path, console: Console) -> Outcome:
    with console.status("collecting functions of the standard library, starting servers"):
        texts = collect(options.texts)
        sequence = zipf_sequence(
            calls=options.calls, texts=len(texts), exponent=options.zipf, seed=options.seed
        )
    async with (
        messages_server(folder, options.delay) as base_url,
        _sidecar(folder, base_url) as sidecar,
        # trust_env: no proxy and no other setting of this machine comes between.
        anthropic.AsyncAnthropic(
            base_url=base_url,
            api_key="none-needed",
            http_client=anthropic.DefaultAsyncHttpxClient(trust_env=False),
        ) as provider,
        AsyncClient(sidecar.target, timeouts=_PATIENT, fail_open=False) as cache,
    ):
        console.print(
            f"{options.calls:,} calls about {len(texts):,} functions of the standard library "
            f"(Zipf {options.zipf:g}), {options.concurrency} at once, delays x {options.delay:g}"
        )
        explainer = Explainer(provider, cache, texts)
        sample = sequence if options.full else sequence[: options.sample]
        bare = await _phase("without the cache", sample, explainer.without_cache, options, console)
        before = read_served(base_url)
        try:
            work = await _phase("with the cache", sequence, explainer.with_cache, options, console)
        except CallFailedError as error:
            log = sidecar.process.output()[-_LOG_CHARS:]
            raise CallFailedError(f"{error}\nThe sidecar's log ends with:\n{log}") from error
        served = read_served(base_url).since(before)
        stats = (await cache.stats(namespace=NAMESPACE)).layers[0]
        comparisons = compare(stats, served, work)
        retrieved = await _retrieve(cache, texts, options, console)
        comparisons += compare_retrievals(await cache.stats(namespace=RAG_NAMESPACE), retrieved)
        batched = await _run_plan(cache, texts, base_url, options, console)
        comparisons += compare_atoms(await cache.stats(namespace=ATOMS_NAMESPACE), batched)
    return Outcome(options, stats, work, bare, retrieved, batched, comparisons)


async def _retrieve(
    cache: AsyncClient, texts: list[Text], options: Options, console: Console
) -> list[Retrieved]:
    with console.status(f"answering {options.questions:,} questions from the docstrings"):
        questions = ask(texts, count=options.questions, exponent=options.zipf, seed=options.seed)
        searcher = await asyncio.to_thread(
            Searcher, cache, texts, delay=options.delay, seed=options.seed
        )
        return await answer_all(searcher, questions)


async def _run_plan(
    cache: AsyncClient, texts: list[Text], base_url: str, options: Options, console: Console
) -> Batched:
    with console.status(f"working through a masterplan of {options.atoms:,} atoms"):
        prompts = atoms(texts, count=options.atoms, exponent=options.zipf / 2, seed=options.seed)
        return await run_plan(cache, prompts, base_url, at_once=options.concurrency)


async def _phase(
    name: str,
    sequence: list[int],
    ask: Callable[[int], Awaitable[Done]],
    options: Options,
    console: Console,
) -> Finished:
    with Progress(
        TextColumn("{task.description:18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
        console=console,
    ) as progress:
        task = progress.add_task(name, total=len(sequence), remark="")
        return await work_through(
            sequence,
            ask,
            concurrency=options.concurrency,
            progress=_Remark(progress, task),
        )


class _Remark:
    """Moves a progress bar, and says how many answers came from the cache."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._hits = 0
        self._saved_usd = 0.0

    def __call__(self, done: Done) -> None:
        remark = ""
        if done.source is not Source.COMPUTED:
            self._hits += 1
            self._saved_usd += done.saved_usd
        if self._hits:
            remark = f"{self._hits:,} hits, ${self._saved_usd:.2f} saved"
        self._progress.update(self._task, advance=1, remark=remark)


def main() -> int:
    """Run the demo; return the exit code."""
    options = parse()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="mge-demo-") as name:
        try:
            outcome = run(_run(options, Path(name), console))
        except StoppedError as error:
            console.print(str(error))
            return INTERRUPTED
        except (StartError, CallFailedError) as error:
            console.print(str(error), style="red", markup=False)
            return 1
    show(outcome, console)
    return 0 if all(each.agrees for each in outcome.comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
