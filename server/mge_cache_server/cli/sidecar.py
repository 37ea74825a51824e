"""What the commands that talk to a sidecar share: where it is, and what its errors mean."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from mge_cache_server.cli.failures import REFUSED, UNREACHABLE, USAGE, CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mge_cache import Client, MgeCacheError, Timeouts

_PATIENT_S = 5.0


def target_option(command: Any) -> Any:
    """Give a command ``--target``."""
    return click.option(
        "--target",
        envvar="MGE_CACHE_TARGET",
        help="unix:/path or host:port of the sidecar.  "
        "[default: 127.0.0.1:50151; env: MGE_CACHE_TARGET]",
    )(command)


def namespace_option(command: Any) -> Any:
    """Give a command ``--namespace``."""
    return click.option("-n", "--namespace", default="default", show_default=True)(command)


def json_option(command: Any) -> Any:
    """Give a command ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Report what the client refuses before it asks a sidecar as wrong usage."""
    from mge_cache.errors import InvalidRequestError  # noqa: PLC0415 (not for `serve`)

    try:
        yield
    except InvalidRequestError as error:
        raise CommandError(str(error), USAGE) from None


@contextmanager
def sidecar_errors(target: str) -> Iterator[None]:
    """Turn the client's errors into exit codes."""
    from mge_cache.errors import (  # noqa: PLC0415
        DeadlineExceededError,
        MgeCacheError,
        UnavailableError,
    )

    try:
        yield
    except (UnavailableError, DeadlineExceededError) as error:
        raise CommandError(f"no answer from {target}: {_one_line(error)}", UNREACHABLE) from None
    except MgeCacheError as error:
        raise CommandError(f"{target} refused: {_one_line(error)}", REFUSED) from None


@contextmanager
def connect(target: str | None) -> Iterator[Client]:
    """Make a client for one command; its errors end the command."""
    from mge_cache import Client  # noqa: PLC0415

    with usage_errors():
        client = Client(target, timeouts=patient_timeouts())
    with client, sidecar_errors(client.target):
        yield client


def patient_timeouts() -> Timeouts:
    """Return deadlines for people, who can wait longer than an application's requests."""
    from mge_cache import Timeouts  # noqa: PLC0415

    return Timeouts(get_s=_PATIENT_S, set_s=_PATIENT_S, invalidate_s=_PATIENT_S, stats_s=_PATIENT_S)


def _one_line(error: MgeCacheError) -> str:
    later = error.retry_after_s
    hint = "" if later is None else f"; repeat it in {later:g} s"
    return " ".join(str(error).split()) + hint
