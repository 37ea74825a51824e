"""What a call wants of the cache: by a header that never leaves the process, or by its context."""

from __future__ import annotations

import contextlib
import copy
import enum
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from anthropic import omit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anthropic import APIRequest
    from anthropic._types import Headers

CACHE_HEADER = "x-mge-cache"
"""In a request: ``no-store`` or ``refresh``. In a response: what the cache did."""
MASTERPLAN_HEADER = "x-mge-masterplan"

_OURS = frozenset({CACHE_HEADER, MASTERPLAN_HEADER})
_masterplan: ContextVar[str | None] = ContextVar("mge_cache_masterplan", default=None)


class Use(enum.Enum):
    """How a call uses the cache; the values are those of the header."""

    NORMAL = ""
    REFRESH = "refresh"
    NO_STORE = "no-store"


@dataclass(frozen=True, slots=True, kw_only=True)
class Directions:
    """What a call wants. ``masterplan``: None for the middleware's own."""

    use: Use = Use.NORMAL
    masterplan: str | None = None


def no_store() -> dict[str, str]:
    """Return ``extra_headers`` of a call that neither reads nor fills the cache."""
    return {CACHE_HEADER: Use.NO_STORE.value}


def refresh() -> dict[str, str]:
    """Return ``extra_headers`` of a call that asks the provider, and replaces the stored answer."""
    return {CACHE_HEADER: Use.REFRESH.value}


def masterplan_header(name: str) -> dict[str, str]:
    """Return ``extra_headers`` of a call whose answer belongs to a masterplan."""
    return {MASTERPLAN_HEADER: quote(name, safe="")}


@contextlib.contextmanager
def in_masterplan(name: str) -> Iterator[None]:
    """Let the answers of all calls in the block, and in tasks begun in it, belong to a masterplan.

    A call's own header goes before it, and it before the middleware's ``masterplan``.
    """
    token = _masterplan.set(name)
    try:
        yield
    finally:
        _masterplan.reset(token)


def directions_of(headers: Mapping[str, str]) -> Directions:
    """Read them from headers with names in lower case. An unknown word counts as ``no-store``."""
    word = headers.get(CACHE_HEADER, "").strip().lower()
    try:
        use = Use(word)
    except ValueError:
        use = Use.NO_STORE
    named = headers.get(MASTERPLAN_HEADER)
    return Directions(use=use, masterplan=_masterplan.get() if named is None else unquote(named))


def without_directions(request: APIRequest, sent: Mapping[str, str]) -> APIRequest:
    """Return the request as it may leave the process; ``sent`` as for ``directions_of``."""
    if not _OURS & sent.keys():
        return request
    kept: dict[str, object] = {
        name: value for name, value in request.headers.items() if name.lower() not in _OURS
    }
    # Those among the client's default headers go only if the request takes them out.
    headers: Headers = {**kept, **dict.fromkeys(_OURS & sent.keys(), omit)}  # type: ignore[dict-item]
    stripped = copy.copy(request)  # not request.copy(), which copies the whole body
    stripped.options = copy.copy(request.options)
    stripped.options.headers = headers
    return stripped
