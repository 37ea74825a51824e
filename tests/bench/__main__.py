"""``python -m tests.bench``: the whole benchmark in one run, on one machine, without a network.

Bare references (a gRPC echo of the same messages, a Redis GET) run beside the sidecar in processes
of their own, and take turns with it in each round; searches for similar queries alternate with
numpy's full product. ``--quick`` is for CI: it shows that everything works, its figures are noise.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tests.bench import quality, servers
from tests.bench.batcher import FULL, QUICK, BatcherFigures, measure_batcher
from tests.bench.batcher_report import batcher_json, show_batcher
from tests.bench.dropin import measure_dropin
from tests.bench.hanging import as_json as hanging_json
from tests.bench.hanging import measure_hanging, show_hanging
from tests.bench.measure import LoadError
from tests.bench.neighbours import Neighbours, measure_neighbours
from tests.bench.processes import StartError
from tests.bench.profile import profile_hits
from tests.bench.report import Report, as_json, show
from tests.bench.retrievers import measure_retrievers, show_retrievers
from tests.bench.running import INTERRUPTED, StoppedError, run
from tests.bench.scale import NotInvalidatedError, measure_entries, measure_starts
from tests.bench.similar import measure_similar, show_similar, similar_as_json
from tests.bench.speed import Results, Servers, measure
from tests.bench.targets import targets

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.hanging import Hanging
    from tests.bench.retrievers import RetrieverFigures
    from tests.bench.similar import Similar


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="less of everything, under a minute")
    parser.add_argument("--rounds", type=int, help="rounds of each measurement (9, quick: 3)")
    parser.add_argument(
        "--round-s", type=float, help="seconds of each run in it (0.5, quick: 0.15)"
    )
    parser.add_argument("--entries", type=int, help="entries for memory (100000, quick: 10000)")
    parser.add_argument("--rows", type=int, help="rows of a partition (100000, quick: 3000)")
    parser.add_argument(
        "--embeddings", type=Path, default=quality.EMBEDDINGS, help="of real questions (.npy)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--profile",
        nargs="?",
        const="l1",
        choices=("l1", "redis"),
        help="only show where the sidecar's time goes while L1 or Redis answers (cProfile)",
    )
    options = parser.parse_args()
    defaults = {"rounds": 3, "round_s": 0.15, "entries": 10_000, "rows": 3000}
    if not options.quick:
        defaults = {"rounds": 9, "round_s": 0.5, "entries": 100_000, "rows": 100_000}
    for name, default in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    return options


async def _measure(
    folder: Path, options: argparse.Namespace, progress: Callable[[str], None]
) -> tuple[Report, Neighbours]:
    busy = os.getloadavg()[0]
    async with servers.valkey(folder / "valkey") as redis_socket:
        progress("starting sidecars")
        starts = await measure_starts(folder, redis_socket, repeats=min(5, options.rounds))
        results = await _speed(folder, redis_socket, options, progress)
        progress("the drop-ins before a model")
        dropins = await measure_dropin(folder, redis_socket, rounds=options.rounds)
        neighbours = await measure_neighbours(
            folder,
            redis_socket,
            rows=options.rows,
            rounds=1 if options.quick else 3,
            duration_s=4 * options.round_s,
            progress=progress,
        )
    progress(f"storing {options.entries:,} entries")
    footprint, invalidations = await measure_entries(folder, entries=options.entries)
    report = Report(
        results,
        starts,
        footprint,
        invalidations,
        dropins,
        targets(results, starts, footprint, invalidations),
        rounds=options.rounds,
        round_s=options.round_s,
        load_before=busy,
    )
    return report, neighbours


async def _speed(
    folder: Path, redis_socket: str, options: argparse.Namespace, progress: Callable[[str], None]
) -> Results:
    # The default deadline of 50 ms would turn a pause of a busy machine into a failed run. Its
    # length does not change what a call costs.
    shared = ("--redis-url", f"unix://{redis_socket}", "--store-timeout", "5s")
    async with (
        servers.echo(folder) as echo,
        servers.sidecar(folder, "l1", *shared) as sidecar,
        servers.sidecar(folder, "stored", *shared, "--l1-max", "0") as stored,
    ):
        return await measure(
            Servers(echo, sidecar, stored, redis_socket),
            rounds=options.rounds,
            duration_s=options.round_s,
            progress=progress,
        )


async def _profile(folder: Path, options: argparse.Namespace) -> str:
    async with servers.valkey(folder / "valkey") as redis_socket:
        return await profile_hits(
            folder,
            redis_socket,
            l1=options.profile == "l1",
            duration_s=20 * options.round_s,
        )


def _run(
    options: argparse.Namespace, console: Console
) -> tuple[Report, Similar, RetrieverFigures, list[Hanging], BatcherFigures]:
    if not options.quick:
        console.print("This takes some minutes; ARGS=--quick takes half of one.")
    with console.status("starting") as status:

        def progress(what: str) -> None:
            status.update(what)

        with tempfile.TemporaryDirectory(prefix="mge-bench-") as name:
            report, neighbours = run(_measure(Path(name), options, progress))
            progress("retrievers")
            retrievers = run(measure_retrievers(Path(name), rounds=options.rounds))
            progress("a sidecar that hangs")
            hanging = run(
                measure_hanging(Path(name), rounds=2 if options.quick else options.rounds)
            )
            progress("the batcher")
            batcher = run(measure_batcher(Path(name), QUICK if options.quick else FULL))
        similar = measure_similar(options.embeddings, neighbours, progress, quick=options.quick)
    return report, similar, retrievers, hanging, batcher


def main() -> int:
    """Measure and print; return the exit code. A target that is missed is no failure."""
    options = _arguments()
    console = Console(width=None if Console().is_terminal else 160)
    try:
        if options.profile:
            with tempfile.TemporaryDirectory(prefix="mge-bench-") as name:
                console.out(run(_profile(Path(name), options)), highlight=False)
            return 0
        report, similar, retrievers, hanging, batcher = _run(options, console)
    except StoppedError as error:
        console.print(str(error))
        return INTERRUPTED
    except KeyboardInterrupt:
        console.print("interrupted; no server was running any more")
        return INTERRUPTED
    except (StartError, LoadError, NotInvalidatedError) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    show(report, console)
    show_retrievers(retrievers, console)
    show_hanging(hanging, console)
    show_batcher(batcher, console)
    show_similar(similar, console)
    if options.json is not None:
        figures = as_json(report) | similar_as_json(similar)
        figures |= {"retrievers_p50_s": retrievers.p50_s}
        figures["hanging"] = hanging_json(hanging)
        figures["batcher"] = batcher_json(batcher)
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
