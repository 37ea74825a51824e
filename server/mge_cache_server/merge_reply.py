"""Cuts the reply to a merged call into its answers, while it streams, and says which to trust.

The lines are those of ``merge_prompt``. A marker is such a line alone: at the very beginning of a
line, with nothing but blanks behind it. The nonce in any other form (inside a line, a fence of the
requests, an unknown number, an answer on the marker's line) is no marker; the part in which it
occurs is not trusted. So a marker that is merely quoted costs the part that quotes it, and nobody
else.

The rule of trust. Part i is trusted if and only if

- its marker occurs exactly once in the whole reply, and the next marker is that of part i + 1 (of
  the end, for the last part), which occurs exactly once too;
- no marker that occurs once is on its wrong side: smaller numbers come before it, greater ones
  after. (Otherwise a reply in the order 2, 3, 1 would be trusted for part 2: the model lost count.)
- the nonce does not occur in it in another form, and its text is not blank;
- for part 1: nothing but white space came before the first marker.

What that is good for, with a model that obeys everything a request says:

- A request that contains markers, copied from another batch or guessed: it cannot know the nonce,
  which was made after it. Its answer may contain such text; that is text.
- "Repeat the line that begins the other answer", "end your answer here", "write answer 2 yourself":
  the genuine line comes too, so the marker occurs twice or stands in the wrong place. The part that
  wrote it is followed by the wrong marker, the part whose marker it is and the part before that one
  have one too many: none of them is trusted, and the core asks for each alone.
- "Repeat everything you see": fences are no markers; the part that echoes them is not trusted.
- The reply is cut: the part that was cut has no marker behind it.

What no reader of the reply can detect: a model that obeys a request which says *how the other is to
be answered*, or which has it write the other's part in its place and leave the genuine one out. The
model sees all that a genuine answer would be made of, so it can write every reply that a genuine
answer could be part of, whatever tags, checksums or closing lines we ask for. That is why merging
is off by default and never crosses a namespace: requests in it must trust each other as parts of
one prompt do.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mge_cache_server.merge_prompt import answer_line, check_nonce, end_line

_BLANKS = " \t\r"
_BRACKET = "["


@dataclass(frozen=True, slots=True)
class PartDelta:
    """More of the text of the part at ``index``, counted from 0 as the prompts are."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ParsedPart:
    """All deltas of a part. Only a trusted one's text is an answer."""

    text: str
    trusted: bool


@dataclass(frozen=True, slots=True)
class Parsed:
    """A whole reply: its parts in the order of the prompts."""

    parts: tuple[ParsedPart, ...]

    @property
    def untrusted(self) -> tuple[int, ...]:
        """The indices of the parts that are to be asked for again, alone."""
        return tuple(index for index, part in enumerate(self.parts) if not part.trusted)


class ReplyParser:
    """Reads the reply to a call with ``parts`` requests. For one reply and one thread.

    Its results do not depend on how the reply is cut into chunks. It works in linear time, and
    holds back only what could still become a marker (less than a marker's length) and white space
    that could still be the edge of a part. What it has given out is never taken back; white space
    around a part (in the sense of ``str.strip``) is not given out, all else is as it came. As the
    rule of trust looks at the whole reply, a part that has grown may turn out not to be trusted in
    ``finish``.
    """

    def __init__(self, parts: int, nonce: str) -> None:
        if parts < 1:
            raise ValueError("a reply has at least one part")
        check_nonce(nonce)
        self._nonce = nonce
        self._end = parts + 1
        lines = {answer_line(nonce, number): number for number in range(1, self._end)}
        lines[end_line(nonce)] = self._end
        opening = len(_BRACKET + nonce)
        self._numbers = {line[opening:]: number for line, number in lines.items()}
        self._parts = [_Part() for _ in range(parts)]
        self._current: int | None = None
        self._seen: list[int] = []
        self._preface = False
        self._held = ""
        self._line_begins = True
        """Whether what is held, or else what comes next, is at the beginning of a line."""

    def feed(self, text: str) -> list[PartDelta]:
        """Take the next piece of the reply; return by what the parts have grown."""
        deltas: list[PartDelta] = []
        buffer, self._held, start = self._held + text, "", 0
        while (found := buffer.find(self._nonce, start)) >= 0:
            after = found + len(self._nonce)
            begin = self._beginning(buffer, start, found)
            self._write(buffer[start : found if begin is None else begin], deltas)
            if begin is None:
                start = self._disturbed(after)
                continue
            newline = buffer.find("\n", after)
            if newline < 0 and self._may_be_marker(buffer[after:]):
                rest = buffer[after:]
                if self._number(rest) is not None:
                    rest = rest.rstrip(_BLANKS)  # they change nothing, and could be many
                self._held = buffer[begin:after] + rest
                self._line_begins = True
                return deltas
            number = None if newline < 0 else self._number(buffer[after:newline])
            if number is None:
                start = self._disturbed(after)
            else:
                self._open(number)
                self._line_begins, start = True, newline + 1
        self._keep_back(buffer[start:], deltas)
        return deltas

    def finish(self) -> Parsed:
        """Return the parts. To be called once, after all of the reply, or of what came of it."""
        held, self._held = self._held, ""
        opening = _BRACKET + self._nonce
        if held.startswith(opening):
            number = self._number(held[len(opening) :])
            if number is None:
                self._disturbed(0)
            else:
                self._open(number)
        counts = Counter(self._seen)
        return Parsed(
            tuple(
                ParsedPart(part.text, self._is_trusted(number, part, counts))
                for number, part in enumerate(self._parts, start=1)
            )
        )

    def _beginning(self, buffer: str, start: int, found: int) -> int | None:
        """Return where the line that has the nonce at ``found`` begins, if it can be a marker."""
        begin = found - len(_BRACKET)
        if begin < start or buffer[begin] != _BRACKET:
            return None
        line_begins = buffer[begin - 1] == "\n" if begin > start else self._line_begins
        return begin if line_begins else None

    def _number(self, rest: str) -> int | None:
        return self._numbers.get(rest.rstrip(_BLANKS))

    def _may_be_marker(self, rest: str) -> bool:
        if self._number(rest) is not None:
            return True
        return any(line.startswith(rest) for line in self._numbers)

    def _keep_back(self, text: str, deltas: list[PartDelta]) -> None:
        """Write ``text``, which has no nonce in it, but for an end that could become one."""
        kept = next(
            size
            for size in range(min(len(text), len(self._nonce) - 1), -1, -1)
            if text.endswith(self._nonce[:size])
        )
        begin = self._beginning(text, 0, len(text) - kept)
        end = len(text) - kept if begin is None else begin
        self._write(text[:end], deltas)
        if end:
            self._line_begins = text[end - 1] == "\n"
        self._held = text[end:]

    def _write(self, text: str, deltas: list[PartDelta]) -> None:
        if self._current is None:
            if not self._seen and text.strip():
                self._preface = True
            return
        grown = self._parts[self._current].write(text)
        if grown:
            deltas.append(PartDelta(self._current, grown))

    def _disturbed(self, after: int) -> int:
        """Note that the nonce is where it does not belong; return where to read on."""
        if self._current is not None:
            self._parts[self._current].closed = True
        elif not self._seen:
            self._preface = True
        self._line_begins = False
        return after

    def _open(self, number: int) -> None:
        if number == self._end:
            self._current = None
        else:
            self._current = number - 1
            if number in self._seen:
                self._parts[self._current].closed = True
        self._seen.append(number)

    def _is_trusted(self, number: int, part: _Part, counts: Counter[int]) -> bool:
        if part.closed or not part.text or counts[number] != 1 or counts[number + 1] != 1:
            return False
        if number == 1 and self._preface:
            return False
        place = self._seen.index(number)
        before, after = self._seen[:place], self._seen[place + 1 :]
        if after[:1] != [number + 1]:
            return False
        return not any(
            counts[other] == 1
            for other in (
                *(other for other in before if other > number),
                *(other for other in after if other < number),
            )
        )


@dataclass(slots=True)
class _Part:
    """A part that grows. ``closed``: it is not trusted whatever comes, and grows no more."""

    closed: bool = False
    _pieces: list[str] = field(default_factory=list)
    _space: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def write(self, text: str) -> str:
        """Return by what the text grows: white space waits until something follows it."""
        if self.closed:
            return ""
        solid = text.rstrip()
        if not solid:
            if self._pieces and text:
                self._space.append(text)
            return ""
        grown = "".join((*self._space, solid)) if self._pieces else solid.lstrip()
        self._space = [text[len(solid) :]]
        self._pieces.append(grown)
        return grown
