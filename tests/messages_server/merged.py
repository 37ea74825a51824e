"""What a model sees of a call that the sidecar has merged: read from its texts, as a model does."""

from __future__ import annotations

import re
from typing import NamedTuple

_INSTRUCTIONS = re.compile(r"The user's message holds \d+ requests ")


class Sight(NamedTuple):
    """How answers are marked, and every request by its number."""

    answer: str
    end: str
    requests: dict[int, str]
    everything: str

    def marker(self, number: int) -> str:
        """Return the line before the answer to a request."""
        return self.answer.replace("N", str(number))


def see(instructions: str, user_text: str, *, everything: str) -> Sight:
    """Read a call by what its instructions say, and by nothing else."""
    named = re.findall(r"the line (\[.*?\])", instructions)
    request, answer, first, end = named
    if first != answer.replace("N", "1"):
        raise ValueError("the instructions contradict themselves")
    opening = re.escape(request).replace("N", r"(\d+)")
    code = request.split()[0]
    before, *blocks = re.split(rf"^{opening}\n", user_text, flags=re.MULTILINE)
    if before:
        raise ValueError("there is something before the first request")
    texts = {
        int(number): text[: text.rindex(f"\n{code} ")] if f"\n{code} " in text else text[:-1]
        for number, text in zip(blocks[::2], blocks[1::2], strict=True)
    }
    return Sight(answer, end, texts, everything)


def read_merged(texts: list[str]) -> tuple[str, Sight] | None:
    """Return the requests' own system prompt, and what there is to see; None: it is not merged.

    ``texts`` are the system prompt and the message.
    """
    if len(texts) != 2:
        return None
    system, user_text = texts
    found = _INSTRUCTIONS.search(system)
    if found is None:
        return None
    sight = see(system[found.start() :], user_text, everything="\n".join(texts))
    return system[: found.start()].rstrip("\n"), sight
