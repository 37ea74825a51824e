"""Real texts that every machine has: the documented functions of Python's standard library."""

from __future__ import annotations

import ast
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SKIPPED = {"__pycache__", "dist-packages", "site-packages", "test", "tests", "turtledemo"}
_DOCSTRING_MIN_CHARS = 60
_SOURCE_MAX_LINES = 60


@dataclass(frozen=True, slots=True)
class Text:
    """A function: where it is defined, and its source with its docstring (its head, if long)."""

    name: str
    source: str
    docstring: str

    @property
    def prompt(self) -> str:
        """What is asked about it."""
        return f"Explain this function of Python's standard library, {self.name}:\n\n{self.source}"


def collect(wanted: int) -> list[Text]:
    """Return up to ``wanted`` texts, the same ones at each call on one machine."""
    root = Path(sysconfig.get_path("stdlib"))
    found: list[Text] = []
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root)
        if not _SKIPPED.intersection(module.parts):
            found.extend(_functions(path, ".".join(module.with_suffix("").parts)))
        if len(found) >= wanted:
            break
    return found[:wanted]


def _functions(path: Path, module: str) -> Iterator[Text]:
    source = path.read_text(encoding="utf-8", errors="replace")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a few files of the library are broken on purpose
        return
    lines = source.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node, clean=False) or ""
        if len(docstring) >= _DOCSTRING_MIN_CHARS:
            end = min(node.end_lineno or node.lineno, node.lineno - 1 + _SOURCE_MAX_LINES)
            body = "\n".join(lines[node.lineno - 1 : end])
            yield Text(f"{module}.{node.name}, line {node.lineno}", body, docstring)
