"""What ``get_or_compute`` and ``retrieve_or_compute`` ask the sidecar. Nothing here does I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from mge_cache._types import Miss

if TYPE_CHECKING:
    from collections.abc import Hashable

    from mge_cache._types import Lease

Asking_co = TypeVar("Asking_co", covariant=True)
Storing_co = TypeVar("Storing_co", covariant=True)
Result_contra = TypeVar("Result_contra", contravariant=True)

IN_FLIGHT_MAX = 16
"""More look-ups (or stores) than this at once wait in this process, before their deadlines begin:
to send more would not make it faster, only late."""


class Flight(Protocol[Asking_co, Storing_co, Result_contra]):
    """Makes the messages that look one result up, and store it.

    Its constructor makes what is known of the message that stores, so that mistakes show before
    anything is paid for. ``looks_up`` and ``stores`` are the names of the RPCs; flights with an
    equal ``turn`` wait for the same result.
    """

    @property
    def looks_up(self) -> str: ...

    @property
    def stores(self) -> str: ...

    @property
    def turn(self) -> Hashable: ...

    def asking(self, *, wait_s: float, lease_ttl_s: float, asks_again: bool) -> Asking_co:
        """Make the message that looks the result up."""
        ...

    def storing(
        self, result: Result_contra, *, lease: Lease | None, compute_s: float
    ) -> Storing_co:
        """Make the message that stores the result."""
        ...


def in_progress(found: object) -> bool:
    """Whether waiting for somebody else's result can help."""
    return isinstance(found, Miss) and found.in_progress and not found.degraded
