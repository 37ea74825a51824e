"""Two accounts of the same work: the sidecar's statistics, and what the Messages server served."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.request import ProxyHandler, build_opener

from mge_cache import Source

if TYPE_CHECKING:
    from mge_cache import LayerStats
    from tests.demo.work import Finished

_DOLLARS_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Served:
    """What the Messages server has served since its start."""

    calls: int
    billed_usd: float

    def since(self, before: Served) -> Served:
        """Return what was served in between."""
        return Served(self.calls - before.calls, self.billed_usd - before.billed_usd)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A figure in two accounts."""

    what: str
    sidecar: float
    other: float
    other_name: str

    @property
    def agrees(self) -> bool:
        """Whether both accounts say the same (dollars: to a millionth)."""
        return math.isclose(self.sidecar, self.other, rel_tol=_DOLLARS_TOLERANCE)


def read_served(base_url: str) -> Served:
    """Ask the Messages server. It is on this machine: no proxy."""
    with build_opener(ProxyHandler({})).open(f"{base_url}/served", timeout=10) as response:
        body = json.load(response)
    return Served(body["calls"], body["billed_usd"])


def compare(sidecar: LayerStats, served: Served, work: Finished) -> list[Comparison]:
    """Set the accounts side by side.

    The Messages server knows what was computed and billed. What was saved, it cannot know: that is
    what the answers to all other calls would have cost again, by the tokens that it counted.
    """
    hits = [done for done in work.calls if done.source is not Source.COMPUTED]
    priced_usd = sum(done.price_usd for done in hits)
    told_usd = sum(done.saved_usd for done in hits)
    server, client = "Messages server", "client"
    comparisons = [
        Comparison("misses", sidecar.total_misses, served.calls, server),
        Comparison("answers stored", sidecar.total_writes, served.calls, server),
        Comparison("dollars spent", sidecar.spent_usd, served.billed_usd, server),
        Comparison("hits", sidecar.total_hits, len(hits), client),
        Comparison("dollars saved", sidecar.saved_usd, priced_usd, client),
        Comparison("dollars saved by hit", sidecar.saved_usd, told_usd, client),
    ]
    if not sidecar.total_errors:
        # A look-up that Valkey does not answer in time is a miss without a lease: on a machine that
        # is too busy a text can be computed twice. Otherwise, each is computed once.
        different = len({done.text for done in work.calls})
        comparisons.append(Comparison("computed once", sidecar.total_misses, different, client))
    return comparisons
