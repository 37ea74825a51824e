"""Answers of every kind, asked for by name: a last message ``scene=thinking`` gets that one.

What an answer depends on besides is the rest of the message, so that tests can ask for new ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

Block = dict[str, Any]

_NAMED = re.compile(r"scene=(\w+)")


@dataclass(frozen=True, slots=True)
class Scene:
    """What happens. ``status`` other than 200: an error of that kind, and no message.

    ``breaks``: a stream ends before its time, with an ``error`` event or by ``cut``ting the
    connection. ``gated``: after its first delta a stream (before its body, another answer) waits
    until the gate is opened. ``fails_first``: only the first call of each prompt has the status.
    """

    content: list[Block] = field(default_factory=list)
    stop_reason: str = "end_turn"
    stop_sequence: str | None = None
    status: int = 200
    fails_first: bool = False
    breaks: str = ""
    gated: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


def scene_of(text: str) -> Scene | None:
    """Return the scene that a prompt names, or None. KeyError for a name that there is not."""
    named = _NAMED.search(text)
    if named is None:
        return None
    echo = _text(f"You said: {text} — naïve “quotes”, \\ and\nlines.")
    return {
        "text": Scene([echo]),
        "gated": Scene([echo], gated=True),
        "two": Scene([echo, _text("And more.")]),
        "empty": Scene([]),
        "tool_use": Scene([_text("Let me look."), _TOOL, _TOOL_WITHOUT_INPUT], "tool_use"),
        "thinking": Scene([_THINKING, _REDACTED, echo]),
        "citations": Scene([_text("Cited: "), _CITED]),
        "json": Scene([_text('{"city": "Paris", "people": 2100000}')]),
        "stop_sequence": Scene([echo], "stop_sequence", "END"),
        "refusal": Scene([_text("I can")], "refusal"),
        "max_tokens": Scene([echo], "max_tokens"),
        "pause_turn": Scene([echo], "pause_turn"),
        "window": Scene([echo], "model_context_window_exceeded"),
        "new_stop": Scene([echo], "a_reason_of_tomorrow"),
        "new_block": Scene([{"type": "hologram", "data": "☃"}]),
        "container": Scene([echo], extra={"container": {"id": "c1", "expires_at": "2030-01-01"}}),
        "error": Scene([echo], breaks="error"),
        "cut": Scene([echo], breaks="cut"),
        "limited": Scene(status=429),
        "broken": Scene(status=500),
        "overloaded": Scene(status=529),
        "overloaded_first": Scene([echo], status=529, fails_first=True),
        "bad": Scene(status=400),
    }[named[1]]


def _text(text: str) -> Block:
    return {"type": "text", "text": text, "citations": None}


_TOOL: Block = {
    "type": "tool_use",
    "id": "toolu_01",
    "name": "look_up",
    "input": {"city": "Zürich", "days": [1, 2.5, -3e-7], "deep": {"cache_control": None, "q": '"'}},
}
_TOOL_WITHOUT_INPUT: Block = {"type": "tool_use", "id": "toolu_02", "name": "now", "input": {}}
_THINKING: Block = {
    "type": "thinking",
    "thinking": "First this.\nThen that: ½.",
    "signature": "EqQBCkgIARABGAIiQL+signature/of=the==thought",
}
_REDACTED: Block = {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix"}
_CITED: Block = {
    "type": "text",
    "text": "the grass is green",
    "citations": [
        {
            "type": "char_location",
            "cited_text": f"The grass is green{end}",
            "document_index": 0,
            "document_title": "Colours",
            "start_char_index": start,
            "end_char_index": start + 19,
            "file_id": None,
        }
        for start, end in ((0, "."), (20, "!"))
    ],
}
