"""Files with a JSON object on each line, read as a stream, with mistakes named by line and field.

Texts of mistakes never repeat what the file contains.
"""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO

BAD_LINES_SHOWN = 20
_CONTROL_CHARACTERS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_SKIP_BYTES = 1 << 20
_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})


class FieldError(ValueError):
    """A field of a line is missing or wrong; "" names the whole line."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}" if name else problem)


@dataclass(slots=True)
class BadLines:
    """Counts bad lines and keeps what is wrong with the first few."""

    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, line: int, error: Exception) -> None:
        """Note what is wrong with a line; the text of ``error`` must not repeat its content."""
        self.count += 1
        if len(self.shown) < BAD_LINES_SHOWN:
            self.shown.append(f"line {line}: {error}")

    def report(self) -> str:
        """List the first bad lines, and how many more there are."""
        more = self.count - len(self.shown)
        return "\n".join([*self.shown, *([f"... and {more} more bad lines"] if more else [])])


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is a JSON object. ``end`` is its end in the file, in bytes."""

    number: int
    members: dict[str, Any]
    end: int

    def only(self, names: Iterable[str]) -> None:
        """Raise FieldError if there is a member of another name."""
        unknown = sum(name not in names for name in self.members)
        if unknown:
            # Its name is not told: it could be a piece of a prompt.
            raise FieldError("", f"{unknown} unknown field(s); known: {', '.join(sorted(names))}")

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text member; without ``default`` it is required and not empty."""
        value = self.members.get(name, default)
        if not isinstance(value, str):
            raise FieldError(name, "is required" if value is None else "must be text")
        if default is None and not value:
            raise FieldError(name, "must not be empty")
        return value

    def amount(self, name: str) -> float | None:
        """Return a number that is finite and not negative, or None if it is not there."""
        value = self.members.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise FieldError(name, "must be a number")
        if not math.isfinite(value) or value < 0:
            raise FieldError(name, "must be finite and not negative")
        return float(value)

    def real(self, name: str) -> float:
        """Return a number, as ``write_real`` writes it."""
        value = self.members.get(name)
        if isinstance(value, str) and value in _NOT_FINITE:
            return float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise FieldError(name, "is required" if value is None else "must be a number")
        try:
            return float(value)
        except OverflowError:
            raise FieldError(name, "must be a number of 64 bits") from None

    def count(self, name: str, default: int | None = None) -> int:
        """Return a whole number from 0 to 2**63 - 1."""
        return _count(name, self.members.get(name, default))

    def counts(self, name: str, known: Iterable[str]) -> dict[str, int]:
        """Return an object of whole numbers, all with known names; {} if it is not there."""
        value = self.object(name)
        if any(each not in known for each in value):
            raise FieldError(name, f"must have only {', '.join(sorted(known))}")
        return {each: _count(f"{name}.{each}", number) for each, number in value.items()}

    def object(self, name: str) -> dict[str, Any]:
        """Return an object; {} if it is not there."""
        value = self.members.get(name, {})
        if not isinstance(value, dict):
            raise FieldError(name, "must be an object")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts; () if it is not there."""
        value = self.members.get(name, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise FieldError(name, "must be a list of texts")
        return tuple(value)

    def objects(self, name: str) -> list[Line]:
        """Return a list of objects, each to be read like a line."""
        value = self.members.get(name)
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise FieldError(name, "must be a list of objects")
        return [Line(self.number, each, self.end) for each in value]

    def body(self, name: str) -> bytes:
        """Return bytes: of the text member ``name``, or of its base64 in ``name_base64``."""
        encoded_name = f"{name}_base64"
        if (name in self.members) == (encoded_name in self.members):
            raise FieldError(name, f"either this or {encoded_name} is required")
        if name not in self.members:
            return self.packed(name)
        try:
            return self.text(name).encode()
        except UnicodeEncodeError:
            raise FieldError(name, "has a lone surrogate, which has no UTF-8 form") from None

    def packed(self, name: str, default: str | None = None) -> bytes:
        """Return bytes, of the base64 in ``name_base64``."""
        text = self.text(f"{name}_base64", default)
        try:
            return base64.b64decode(text, validate=True)
        except ValueError:
            raise FieldError(f"{name}_base64", "must be base64") from None


def write_real(number: float) -> float | str:
    """Return what ``Line.real`` reads: JSON has no infinity, and nothing that is no number."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def write_body(name: str, body: bytes) -> dict[str, str]:
    """Return the member that ``Line.body`` reads: text where the bytes are UTF-8.

    With control characters, each of which is six bytes in JSON, they are no text.
    """
    if not _CONTROL_CHARACTERS.search(body):
        try:
            return {name: body.decode()}
        except UnicodeDecodeError:
            pass
    return write_packed(name, body)


def write_packed(name: str, packed: bytes) -> dict[str, str]:
    """Return the member that ``Line.packed`` reads."""
    return {f"{name}_base64": base64.b64encode(packed).decode("ascii")}


def read_lines(
    file: BinaryIO, *, line_max_bytes: int, bad: Callable[[int, Exception], None]
) -> Iterator[Line]:
    """Yield the lines that are JSON objects; report the others to ``bad``; skip empty ones.

    Memory is bounded by ``line_max_bytes``, however large the file is.
    """
    number = end = 0
    while raw := file.readline(line_max_bytes + 1):
        number += 1
        end += len(raw)
        if len(raw) > line_max_bytes:
            bad(number, FieldError("", f"longer than {line_max_bytes} bytes"))
            end += _skip_line(file, raw)
            continue
        if not raw.strip():
            continue
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):  # its text would quote the line
            bad(number, FieldError("", "not JSON"))
            continue
        if isinstance(value, dict):
            yield Line(number, value, end)
        else:
            bad(number, FieldError("", "not a JSON object"))


def _skip_line(file: BinaryIO, raw: bytes) -> int:
    skipped = 0
    while raw and not raw.endswith(b"\n"):
        raw = file.readline(_SKIP_BYTES)
        skipped += len(raw)
    return skipped


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise FieldError(name, "is required" if value is None else "must be a whole number")
    if not 0 <= value < 1 << 63:
        raise FieldError(name, "must be from 0 to 2**63 - 1")
    return value
