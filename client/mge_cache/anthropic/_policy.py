"""Which requests never touch the cache, and why. docs/anthropic.md gives the reasons at length."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import httpx2

if TYPE_CHECKING:
    from anthropic import APIRequest

MESSAGES_PATH = "/v1/messages"
DEFAULT_TEMPERATURE = 1.0
"""The API's own, where a request names none."""

_CLIENT_TOOLS = ("bash_", "browser_toolset_", "computer_", "memory_", "text_editor_")
"""Tools that Anthropic defines and the application runs: the answer is only that they be called."""
_PURE_SERVER_TOOLS = ("tool_search_tool_",)
"""Tools that the API runs on nothing but the request itself."""
_SERVER_STATE = {
    "container": "container",
    "mcp_servers": "mcp",
    "thread": "thread",
    "fallback_credit_token": "credit-token",
}


class Reason(enum.StrEnum):
    """Why a request passed by the cache, as the header and the counts spell it."""

    NO_STORE = "no-store"
    ENDPOINT = "endpoint"
    CLIENT = "client"
    RESPONSE_CLASS = "response-class"
    BODY = "body"
    TEMPERATURE = "temperature"
    SERVER_TOOL = "server-tool"
    MCP = "mcp"
    CONTAINER = "container"
    THREAD = "thread"
    CREDIT_TOKEN = "credit-token"  # noqa: S105 - a word
    FILE = "file"
    URL = "url"
    CLOSED = "closed"


def is_messages_call(request: APIRequest) -> bool:
    """Whether the request creates a message: the only kind that is cached."""
    url = httpx2.URL(request.url)
    return request.method.lower() == "post" and url.is_relative_url and url.path == MESSAGES_PATH


def why_not(body: Mapping[str, object], *, max_temperature: float | None) -> Reason | None:
    """Return why a request's answer must not be stored, or None if it may be."""
    for name, reason in _SERVER_STATE.items():
        if body.get(name):
            return Reason(reason)
    if max_temperature is not None:
        temperature = body.get("temperature", DEFAULT_TEMPERATURE)
        if not isinstance(temperature, (int, float)) or temperature > max_temperature:
            return Reason.TEMPERATURE
    for tool in _objects(body.get("tools")):
        if (reason_of := _why_not_tool(tool)) is not None:
            return reason_of
    for message in _objects(body.get("messages")):
        for block in blocks_in(message.get("content")):
            if (reason_of := _why_not_block(block)) is not None:
                return reason_of
    return None


def blocks_in(content: object) -> Iterator[Mapping[str, object]]:
    """All content blocks of a message, those inside tool results and documents too."""
    for block in _objects(content):
        yield block
        yield from blocks_in(block.get("content"))
        source = block.get("source")
        if isinstance(source, Mapping):
            yield from blocks_in(source.get("content"))


def _why_not_tool(tool: Mapping[str, object]) -> Reason | None:
    kind = tool.get("type") or "custom"
    if kind == "custom" or str(kind).startswith((*_CLIENT_TOOLS, *_PURE_SERVER_TOOLS)):
        return None
    # Also what is not known yet: a new tool may act on the world.
    return Reason.MCP if str(kind).startswith("mcp_") else Reason.SERVER_TOOL


def _why_not_block(block: Mapping[str, object]) -> Reason | None:
    if block.get("type") == "container_upload":
        return Reason.CONTAINER
    source = block.get("source")
    kind = source.get("type") if isinstance(source, Mapping) else None
    if kind == "file":
        return Reason.FILE
    if kind == "url":
        return Reason.URL
    return None


def _objects(value: object) -> Iterator[Mapping[str, object]]:
    if isinstance(value, list):
        yield from (each for each in value if isinstance(each, Mapping))
