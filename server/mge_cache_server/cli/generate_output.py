"""What ``mge-cache generate`` and ``fetch`` print of an answer."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mge_cache import Completion, MgeCacheError

_COMPLETE = frozenset({"end_turn", "stop_sequence"})


def members_of(completion: Completion) -> dict[str, Any]:
    """Return a completion as the members of a JSON object."""
    strategy = completion.strategy
    members = dataclasses.asdict(completion)
    members |= {
        "source": completion.source.value,
        "strategy": None if strategy is None else strategy.value,
    }
    return members


def failure_members(error: MgeCacheError) -> dict[str, Any]:
    """Return an error as the members of a JSON object."""
    told = {"code": error.code, "message": str(error), "retry_after_s": error.retry_after_s}
    return {"error": told}


def print_summary(completion: Completion) -> None:
    """Say on stderr what an answer took."""
    usage = completion.usage
    read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    parts = [
        completion.source.value,
        f"{read:,} + {usage.output_tokens:,} tokens",
        f"${completion.cost_usd:.6f}",
    ]
    if completion.cost_saved_usd:
        parts.append(f"saved ${completion.cost_saved_usd:.6f}")
    if completion.batch_size > 1 and completion.strategy is not None:
        parts.append(f"batch of {completion.batch_size} ({completion.strategy.value})")
    if completion.stop_reason not in _COMPLETE:
        parts.append(f"stopped by {completion.stop_reason or 'an unknown reason'}")
    if completion.degraded:
        parts.append("degraded: the sidecar cannot ask its store")
    click.echo(f"mge-cache: {', '.join(parts)}", err=True)
