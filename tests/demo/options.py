"""What the demo is told."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_DESCRIPTION = """\
Shows what the cache saves, without a key and without a network: a sidecar on an embedded Valkey,
a local server that speaks the Messages API with realistic delays (first token after 0.3 to 0.8 s,
then 80 tokens/s), and a program that uses the anthropic SDK to have functions of Python's standard
library explained, some of them often, most of them rarely (Zipf). Then questions about these
functions are answered from their docstrings, found by their embeddings (TF-IDF and an SVD), and a
masterplan's atoms go through the sidecar's batcher, which merges them into fewer calls.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The size of the work, and how it is done."""

    calls: int = 4000
    texts: int = 2000
    zipf: float = 1.1
    concurrency: int = 48
    delay: float = 1.0
    seed: int = 1
    sample: int = 240
    questions: int = 1000
    atoms: int = 60
    full: bool = False


_QUICK = Options(
    calls=600, texts=300, concurrency=32, delay=0.2, sample=96, questions=200, atoms=40
)


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line; exits with a message if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.demo",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a small run, for CI")
    whole = _at_least(int, 1)
    parser.add_argument("--calls", type=whole, help=_default("calls to make", "calls"))
    parser.add_argument("--texts", type=whole, help=_default("different texts", "texts"))
    parser.add_argument(
        "--zipf",
        type=_at_least(float, 0),
        help=_default("the text of rank r is asked for with a weight of 1/r^ZIPF", "zipf"),
    )
    parser.add_argument("--concurrency", type=whole, help=_default("calls at once", "concurrency"))
    parser.add_argument(
        "--delay", type=_at_least(float, 0), help=_default("scale of the delays", "delay")
    )
    parser.add_argument("--seed", type=int, help=_default("of the choice of texts", "seed"))
    parser.add_argument(
        "--sample", type=whole, help=_default("calls that are made without the cache", "sample")
    )
    parser.add_argument("--questions", type=whole, help=_default("retrievals to make", "questions"))
    parser.add_argument("--atoms", type=whole, help=_default("atoms of the masterplan", "atoms"))
    parser.add_argument(
        "--full", action="store_true", help="make all calls without the cache, too (takes minutes)"
    )
    given = parser.parse_args(arguments)
    base = _QUICK if given.quick else Options()
    values = {
        name: getattr(base if getattr(given, name) is None else given, name)
        for name in (
            "calls",
            "texts",
            "zipf",
            "concurrency",
            "delay",
            "seed",
            "sample",
            "questions",
            "atoms",
        )
    }
    return Options(**values, full=given.full)


def _default(text: str, name: str) -> str:
    return f"{text} (default: {getattr(Options(), name)}, quick: {getattr(_QUICK, name)})"


def _at_least(kind: Callable[[str], float], least: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not least <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be a number of at least {least}")
        return value

    return number
