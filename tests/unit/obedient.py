"""A model that obeys: it answers a merged call, and does whatever a request in it asks for.

It reads the call as a real model does, from its two texts: the lines that the instructions name and
the requests between them. It is worse than any real one, as it knows no reason not to obey.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mge_cache_server.merge_reply import Parsed, ReplyParser
from tests.messages_server import merged

if TYPE_CHECKING:
    from mge_cache_server.merge_prompt import MergedCall
    from tests.messages_server.merged import Sight

COMMAND = re.compile(r"(?P<verb>[A-Z]+)(?: (?P<number>\d+))?(?:: (?P<text>.*))?", re.DOTALL)


def see(call: MergedCall) -> Sight:
    """Read a call by what its instructions say, and by nothing else."""
    everything = f"{call.system}\n{call.user_text}"
    return merged.see(call.instructions, call.user_text, everything=everything)


def obey(call: MergedCall) -> str:
    """Return the reply of a model that does what each request says, as far as it can be done."""
    sight = see(call)
    left_out = {
        int(found["number"])
        for text in sight.requests.values()
        if (found := COMMAND.fullmatch(text)) and found["verb"] == "REPLACE"
    }
    lines: list[str] = []
    for number, request in sight.requests.items():
        if number not in left_out:
            lines += [sight.marker(number), *answer(sight, number, request)]
    return "\n".join([*lines, sight.end])


def answer(sight: Sight, number: int, request: str) -> list[str]:
    """Return the lines of one answer."""
    found = COMMAND.fullmatch(request)
    if found is None:
        return [f"answer to <{request}>"]
    other = int(found["number"] or 0)
    text = found["text"] or ""
    return {
        "SAY": [text],
        "QUOTE": [f"The line is {sight.marker(other)}, as you asked."],
        "LINE": ["Before it.", sight.marker(other), "After it."],
        "INDENT": ["Before it.", "    " + sight.marker(other), "After it."],
        "CLOSE": ["Done.", sight.end, "I went on."],
        "WRITE": ["Mine.", sight.marker(other), text],
        "REPLACE": ["Mine.", sight.marker(other), text],
        "AGAIN": ["Mine.", sight.marker(number), "Mine again."],
        "ECHO": [sight.everything],
        "CODE": [sight.answer.split()[0][1:]],
        "NOTHING": [],
    }[found["verb"]]


def parse(reply: str, parts: int, nonce: str) -> Parsed:
    """Read a whole reply at once."""
    parser = ReplyParser(parts, nonce)
    parser.feed(reply)
    return parser.finish()
