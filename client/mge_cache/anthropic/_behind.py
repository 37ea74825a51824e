"""Which client a request comes from. The SDK's hook does not say, but its chain ends in the client.

The only place that knows the SDK's insides; tests/anthropic/test_sdk_hook.py fails if they change.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING

from anthropic import AnthropicBedrock, AsyncAnthropicBedrock
from anthropic._base_client import AsyncAPIClient, SyncAPIClient

if TYPE_CHECKING:
    from anthropic import APIRequest

APIClient = AsyncAPIClient | SyncAPIClient

_SDK = "anthropic._base_client"
_LINKS_MAX = 100
"""No chain of middleware is longer."""


class Wire(enum.Enum):
    """How a provider writes a stream's events."""

    SSE = "sse"
    AWS = "aws"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """A client, and how its provider writes streams."""

    client: APIClient
    wire: Wire

    @property
    def origin(self) -> str:
        """What answers: its address and protocol. Elsewhere the same model may answer otherwise."""
        return f"{self.wire.value} {self.client.base_url}"

    def headers(self, request: APIRequest) -> dict[str, str]:
        """Return the headers that client and request set, names in lower case."""
        headers: dict[str, str] = {}
        for layer in (self.client.default_headers, request.headers):
            for name, value in layer.items():
                if isinstance(value, str):
                    headers[name.lower()] = value
                else:  # the SDK's mark for a header that is not to be sent
                    headers.pop(name.lower(), None)
        return headers


def behind(call_next: object) -> Behind | None:
    """Return the client whose chain of middleware ``call_next`` continues; None if it hides it.

    The rest of a chain is closures of the SDK, of which the last refers to the client as ``self``.
    """
    pending = [call_next]
    for _ in range(_LINKS_MAX):
        if not pending:
            return None
        link = pending.pop()
        if not isinstance(link, FunctionType):
            continue
        for name, cell in zip(link.__code__.co_freevars, link.__closure__ or (), strict=True):
            try:
                held = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            if name == "self" and link.__module__ == _SDK and isinstance(held, APIClient):
                is_aws = isinstance(held, (AnthropicBedrock, AsyncAnthropicBedrock))
                return Behind(client=held, wire=Wire.AWS if is_aws else Wire.SSE)
            pending.append(held)
    return None
