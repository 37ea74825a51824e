"""A message and the events that stream it: each can be made from the other.

From events to a message as the Messages API defines them (text, tool input, thinking with its
signature, citations); what is unknown is refused, so that nothing is stored that could not be
given back. From a message to events as the API would send them, but in few pieces.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Message = dict[str, Any]

_DELTA_USAGE = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
    "output_tokens_details",
    "server_tool_use",
)
"""What of the usage the API repeats in its ``message_delta``."""
_ONLY_AT_THE_END = ("stop_reason", "stop_sequence", "stop_details", "container")
_APPENDED = {"text_delta": "text", "thinking_delta": "thinking"}


class Event(NamedTuple):
    """One event of a stream: its name and its data, a JSON text."""

    name: str
    data: str


class UnknownEventError(ValueError):
    """Events that do not add up to a complete message of a known shape."""


def message_of(events: Iterable[Event]) -> Message:
    """Add the events up. Raises UnknownEventError, also if the message does not end."""
    adding = _Adding()
    try:
        for event in events:
            if event.name != "ping":
                adding.add(event.name, json.loads(event.data))
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        # Not `from exc`: that error can carry the answer.
        raise UnknownEventError(f"an event is not understood ({type(exc).__name__})") from None
    if adding.message is None or not adding.ended:
        raise UnknownEventError("the message does not end")
    return adding.message


def events_of(message: Message) -> Iterator[Event]:
    """Make the events of a complete message: each text and each input in one piece."""
    start = {
        **message,
        **{name: None for name in _ONLY_AT_THE_END if name in message},
        "content": [],
        "usage": {**message["usage"], "output_tokens": 1},
    }
    yield _event("message_start", message=start)
    for index, block in enumerate(message["content"]):
        begun, deltas = _taken_apart(block)
        yield _event("content_block_start", index=index, content_block=begun)
        for delta in deltas:
            yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    usage = message["usage"]
    yield _event(
        "message_delta",
        delta={name: message[name] for name in _ONLY_AT_THE_END if name in message},
        usage={name: usage[name] for name in _DELTA_USAGE if usage.get(name) is not None},
    )
    yield _event("message_stop")


class _Adding:
    """A message as far as its events have come."""

    def __init__(self) -> None:
        self.message: Message | None = None
        self.ended = False
        self._inputs: dict[int, str] = {}

    def add(self, name: str, data: dict[str, Any]) -> None:
        if name == "message_start":
            self.message = {**data["message"], "content": []}
            return
        if self.message is None:
            raise ValueError(name)
        match name:
            case "content_block_start":
                if data["index"] != len(self.message["content"]):
                    raise ValueError(name)
                self.message["content"].append(data["content_block"])
            case "content_block_delta":
                self._add_delta(data["index"], data["delta"])
            case "content_block_stop":
                text = self._inputs.pop(data["index"], "")
                if text:
                    self.message["content"][data["index"]]["input"] = json.loads(text)
            case "message_delta":
                self._finish(self.message, data)
            case "message_stop":
                self.ended = True
            case _:  # "error", and what the API may add one day
                raise ValueError(name)

    def _add_delta(self, index: int, delta: dict[str, Any]) -> None:
        assert self.message is not None  # noqa: S101 - see add
        block = self.message["content"][index]
        kind = delta["type"]
        if kind in _APPENDED:
            block[_APPENDED[kind]] += delta[_APPENDED[kind]]
        elif kind == "input_json_delta":
            self._inputs[index] = self._inputs.get(index, "") + delta["partial_json"]
        elif kind == "signature_delta":
            block["signature"] = delta["signature"]
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]
        else:
            raise ValueError(kind)

    @staticmethod
    def _finish(message: Message, data: dict[str, Any]) -> None:
        message.update(data["delta"])
        # Totals so far: they replace what message_start said, if they are given.
        message["usage"] = message["usage"] | _given(data.get("usage") or {})
        message.update(
            _given({k: v for k, v in data.items() if k not in ("type", "delta", "usage")})
        )


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _taken_apart(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what a block's start says, and the deltas that complete it."""
    deltas: list[dict[str, Any]] = []
    match block["type"]:
        case "text":
            begun = {**block, "text": ""}
            if block["text"]:
                deltas.append({"type": "text_delta", "text": block["text"]})
            if block.get("citations"):
                begun["citations"] = []
                deltas += [
                    {"type": "citations_delta", "citation": each} for each in block["citations"]
                ]
        case "thinking":
            begun = {**block, "thinking": "", "signature": ""}
            if block["thinking"]:
                deltas.append({"type": "thinking_delta", "thinking": block["thinking"]})
            if block.get("signature"):
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
        case "tool_use" | "server_tool_use":
            begun = {**block, "input": {}}
            deltas.append({"type": "input_json_delta", "partial_json": ""})
            if block["input"]:
                deltas.append({"type": "input_json_delta", "partial_json": _json(block["input"])})
        case _:  # it comes whole, like redacted thinking
            begun = dict(block)
    return begun, deltas


def _event(name: str, **fields: object) -> Event:
    return Event(name, _json({"type": name, **fields}))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
