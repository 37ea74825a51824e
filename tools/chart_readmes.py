"""``python -m tools.chart_readmes [--check]``: writes the charts' values into their READMEs.

A row for each value of values.yaml: its path, its default, and the comment above it. A map whose
members have no comments of their own is one value.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

HELM = Path(__file__).resolve().parent.parent / "helm"
CHARTS = ("mge-cache-sidecar", "mge-cache")
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][\w-]*):(?: |$)")
_BLOCK = re.compile(r"(<!-- values: begin [^\n]*-->\n).*?(<!-- values: end -->)", re.DOTALL)


def comments(text: str) -> dict[tuple[str, ...], str]:
    """Return the comments of a values.yaml by the path of the key below each; "" if it has none."""
    found: dict[tuple[str, ...], str] = {}
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        key = _KEY.match(line)
        if stripped.startswith("#"):
            comment.append(stripped.removeprefix("#").strip())
            continue
        if key is not None:
            indent = len(key["indent"])
            path = [*(part for part in path if part[0] < indent), (indent, key["key"])]
            found[tuple(name for _, name in path)] = " ".join(comment)
        comment = []
    return found


def rows(text: str) -> Iterator[tuple[str, Any, str]]:
    """Yield path, default and comment of each value; raises ValueError for one without comment."""
    said = comments(text)
    yield from _rows(yaml.safe_load(text), (), said)


def _rows(
    value: Any, path: tuple[str, ...], said: dict[tuple[str, ...], str]
) -> Iterator[tuple[str, Any, str]]:
    inside = [other for other in said if other[: len(path)] == path and other != path]
    if isinstance(value, dict) and any(said[other] for other in inside):
        for key, member in value.items():
            yield from _rows(member, (*path, key), said)
        return
    if not said.get(path):
        raise ValueError(f"{'.'.join(path)}: no comment says what it is")
    yield ".".join(path), value, said[path]


def table(text: str) -> str:
    """Return the table of a values.yaml as Markdown."""
    lines = ["| value | default | meaning |\n", "|---|---|---|\n"]
    for path, default, meaning in rows(text):
        shown = "" if default == "" else f"`{json.dumps(default)}`"
        cells = (f"`{path}`", shown.replace("|", "\\|"), meaning.replace("|", "\\|"))
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def readme_with_values(chart: Path) -> str:
    """Return the README of a chart with the table of today's values between its two marks."""
    made = table((chart / "values.yaml").read_text(encoding="utf-8"))
    readme = (chart / "README.md").read_text(encoding="utf-8")
    return _BLOCK.sub(lambda marks: f"{marks[1]}\n{made}\n{marks[2]}", readme)


def main() -> int:
    """Write the READMEs, or say which are stale; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the charts' values into their READMEs.")
    parser.add_argument("--check", action="store_true", help="change nothing, name what is stale")
    check = parser.parse_args().check
    stale = 0
    for chart in CHARTS:
        readme = HELM / chart / "README.md"
        content = readme_with_values(HELM / chart)
        if content == readme.read_text(encoding="utf-8"):
            continue
        if check:
            print(f"{readme}: stale, run `make helm-docs`", file=sys.stderr)
            stale = 1
        else:
            readme.write_text(content, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
