"""What each alert and each recording rule has to do, on made-up series with a sample a minute.

A series' values are written as promtool has them: ``0+3x60`` is 60 steps of 3 from 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

JOB = 'namespace="shop",job="search"'


@dataclass(frozen=True, slots=True)
class AlertCase:
    """``series`` by name with labels; ``fires`` has the description by minute.

    It must not fire at the minutes of ``quiet``. ``labels`` are those beside the job's.
    """

    alert: str
    what: str
    series: Mapping[str, str]
    fires: Mapping[int, str] = field(default_factory=dict)
    quiet: tuple[int, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecordCase:
    """``values`` are the record's samples by their labels beside the job's, at ``minute``."""

    record: str
    what: str
    series: Mapping[str, str]
    minute: int
    values: Mapping[str, float]


def metric(name: str, labels: str = "") -> str:
    """Write a series of the job."""
    return f"{name}{{{JOB}{',' if labels else ''}{labels}}}"
