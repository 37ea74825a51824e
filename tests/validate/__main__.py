"""``make validate``: does the cache reach its goals on a masterplan's run?

Separate processes: the application, a sidecar with its Valkey, and an HTTP server that speaks the
Messages API and takes 2 to 3 s for an answer. Each plan runs first without the cache, then with it
and the batcher. How much a plan repeats decides everything: it is stated, can be set, and a plan
that hardly repeats anything is run too, so that nobody is fooled.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mge_cache import AsyncClient, Timeouts
from tests.bench import servers
from tests.bench.processes import Process, StartError, python
from tests.bench.running import INTERRUPTED, StoppedError, run
from tests.demo.__main__ import messages_server
from tests.demo.accounts import read_served
from tests.validate.measures import Account, Measured, account_of
from tests.validate.plan import Plan, change, make_plan
from tests.validate.show import show

if TYPE_CHECKING:
    from collections.abc import Callable

_RUN_S = 900.0
_LOG_CHARS = 3000


class RunFailedError(Exception):
    """An application ended with an error."""


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.validate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--atoms", type=int, default=240, help="atoms of a plan (240)")
    parser.add_argument(
        "--repetition",
        type=float,
        default=0.7,
        help="share of atoms that ask what an earlier one has asked (0.7)",
    )
    parser.add_argument(
        "--little", type=float, default=0.1, help="the same of the plan to compare with (0.1)"
    )
    parser.add_argument(
        "--changed", type=float, default=0.1, help="share of atoms that a re-plan changes (0.1)"
    )
    parser.add_argument("--concurrency", type=int, default=16, help="atoms at once (16)")
    parser.add_argument("--delay", type=float, default=1.4, help="scale of Anthropic's times (1.4)")
    parser.add_argument("--window", default="500ms", help="the batcher's window (500ms)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--quick", action="store_true", help="small and fast: shows that it runs")
    options = parser.parse_args()
    for name in ("repetition", "little", "changed"):
        if not 0 <= getattr(options, name) < 1:
            parser.error(f"--{name} must be from 0 to below 1")
    if options.quick:
        options.atoms, options.delay, options.window = 60, 0.2, "50ms"
    return options


class Validation:
    """Runs plans. ``progress(text)`` is told what is under way."""

    def __init__(
        self,
        folder: Path,
        options: argparse.Namespace,
        *,
        anthropic: str,
        sidecar: str,
        progress: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._options = options
        self._anthropic = anthropic
        self._sidecar = sidecar
        self._progress = progress

    async def measure(self, plan: Plan, *, namespace: str) -> Measured:
        """Run a plan without the cache, then with it."""
        path = self._folder / "plan.json"
        plan.write(path)
        start_usd = read_served(self._anthropic).billed_usd
        self._progress(f"{plan.name}: without the cache")
        bare_s = await self._run(path)
        bare_usd = read_served(self._anthropic).billed_usd
        before = await self._account(namespace)
        self._progress(f"{plan.name}: with the cache")
        cached_s = await self._run(path, "--sidecar", self._sidecar, "--namespace", namespace)
        return Measured(
            name=plan.name,
            repetition=plan.repetition,
            atoms=len(plan.atoms),
            bare_s=bare_s,
            cached_s=cached_s,
            billed_bare_usd=bare_usd - start_usd,
            billed_cached_usd=read_served(self._anthropic).billed_usd - bare_usd,
            account=(await self._account(namespace)).since(before),
        )

    async def _run(self, plan: Path, *arguments: str) -> float:
        """Run the application in a process of its own; return the seconds that its work took."""
        options = self._options
        command = python(
            "tests.validate.application",
            *(str(plan), "--anthropic", self._anthropic, "--delay", str(options.delay)),
            *("--concurrency", str(options.concurrency), *arguments),
        )
        process = Process(command, log=self._folder / "application.log")
        try:
            async with asyncio.timeout(_RUN_S):
                while process.running:  # noqa: ASYNC110 - a process sets no event
                    await asyncio.sleep(0.05)
        finally:
            code = process.stop()
        output = process.output()
        if code != 0:
            raise RunFailedError(f"the application failed:\n{output[-_LOG_CHARS:]}")
        elapsed_s: float = json.loads(output.splitlines()[-1])["elapsed_s"]
        return elapsed_s

    async def _account(self, namespace: str) -> Account:
        async with AsyncClient(self._sidecar, timeouts=Timeouts(stats_s=10.0)) as client:
            return account_of(await client.stats(namespace=namespace))


async def _validate(options: argparse.Namespace, folder: Path, console: Console) -> list[Measured]:
    with console.status("starting servers") as status:
        async with messages_server(folder, options.delay) as anthropic:
            serve = servers.sidecar(
                *(folder, "sidecar", "--data-dir", str(folder / "data")),
                *("--anthropic-base-url", anthropic, "--batch-window", options.window),
                *("--rag-rerank-threshold", "0.9"),
                # A busy machine's pauses are not what is measured.
                *("--store-timeout", "1s"),
                environment={"ANTHROPIC_API_KEY": "none-needed"},
            )
            async with serve as sidecar:
                validation = Validation(
                    folder,
                    options,
                    anthropic=anthropic,
                    sidecar=sidecar.target,
                    progress=status.update,
                )
                first = make_plan(
                    "first run, cold cache",
                    atoms=options.atoms,
                    repetition=options.repetition,
                    seed=options.seed,
                )
                again = change(first, share=options.changed, seed=options.seed)
                little = make_plan(
                    "little repetition, cold cache",
                    atoms=options.atoms,
                    repetition=options.little,
                    seed=options.seed + 7,
                )
                return [
                    await validation.measure(first, namespace="validate"),
                    await validation.measure(again, namespace="validate"),
                    await validation.measure(little, namespace="validate-little"),
                ]


def main() -> int:
    """Run all plans and print; 0 if the first run and the re-plan reach all targets."""
    options = _parse()
    console = Console(width=None if Console().is_terminal else 132)
    with tempfile.TemporaryDirectory(prefix="mge-validate-") as name:
        try:
            measured = run(_validate(options, Path(name), console))
        except StoppedError as error:
            console.print(str(error))
            return INTERRUPTED
        except (StartError, RunFailedError) as error:
            console.print(str(error), style="red", markup=False)
            return 1
    return show(measured, options, console)


if __name__ == "__main__":
    sys.exit(main())
