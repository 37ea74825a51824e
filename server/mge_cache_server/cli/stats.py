"""``mge-cache stats``: the sidecar's figures, once or again and again."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import time
from typing import TYPE_CHECKING

import click

from mge_cache_server.cli.entries import Duration
from mge_cache_server.cli.sidecar import connect, json_option, target_option
from mge_cache_server.cli.stats_table import make_table, measures

if TYPE_CHECKING:
    from mge_cache import Stats

_INTERVAL_MIN_S = 0.1


@click.command(short_help="Show the sidecar's figures.")
@target_option
@click.option("-n", "--namespace", default="", help="Only this namespace.  [default: all]")
@click.option(
    "-w",
    "--watch",
    "interval_s",
    is_flag=False,
    flag_value=2.0,
    type=Duration(),
    metavar="[INTERVAL]",
    help="Show them again and again, every 2s or as given, until Ctrl-C.",
)
@json_option
def stats(
    *,
    target: str | None,
    namespace: str,
    interval_s: float | None,
    as_json: bool,
) -> None:
    """Show what the sidecar has counted since it started: hits, dollars spent and saved, errors.

    First come the three measures of success and their targets: the share of look-ups that the cache
    answered, and the shares of dollars and of time that it saved. Time counts for answers that were
    stored with the time that they took.

    \b
      mge-cache stats
      mge-cache stats --watch 5s
      mge-cache stats --json | jq .layers[0].saved_usd
    """
    if interval_s is not None:
        # As the first process of a container it would not hear SIGTERM otherwise.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with connect(target) as client:
        if as_json:
            _print_json(client.stats(namespace=namespace))
            while interval_s is not None:
                time.sleep(max(interval_s, _INTERVAL_MIN_S))
                _print_json(client.stats(namespace=namespace))
            return
        from rich.console import Console  # noqa: PLC0415 (not for `serve`)
        from rich.live import Live  # noqa: PLC0415

        console = Console(highlight=False)
        if interval_s is None:
            console.print(make_table(client.stats(namespace=namespace), namespace))
            return
        table = make_table(client.stats(namespace=namespace), namespace)
        if not console.is_terminal:
            # A pipe or a file gets one table after the other, each when it is made.
            while True:
                console.print(table)
                sys.stdout.flush()
                time.sleep(max(interval_s, _INTERVAL_MIN_S))
                table = make_table(client.stats(namespace=namespace), namespace)
        with Live(table, console=console, auto_refresh=False) as live:
            while True:
                time.sleep(max(interval_s, _INTERVAL_MIN_S))
                table = make_table(client.stats(namespace=namespace), namespace)
                live.update(table, refresh=True)


def _print_json(figures: Stats) -> None:
    success = {
        name: {"value": value, "target": target} for name, value, target in measures(figures)
    }
    click.echo(json.dumps({"success": success, **dataclasses.asdict(figures)}))
