"""``python -m tools.settings_pages``: writes the settings into README.md and docs/settings.md."""

from __future__ import annotations

import re
from pathlib import Path

from mge_cache_server.cli.settings_table import settings_table

_TOP = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"(<!-- settings: begin [^\n]*-->\n).*?(<!-- settings: end -->)", re.DOTALL)


def readme_with_settings(readme: str) -> str:
    """Return the README with the table of today's settings between its two marks."""
    page = settings_table()
    table = page[page.index("| flag |") :]
    return _BLOCK.sub(lambda marks: f"{marks[1]}\n{table}\n{marks[2]}", readme)


def main() -> None:
    """Write both pages."""
    (_TOP / "docs" / "settings.md").write_text(settings_table(), encoding="utf-8")
    readme = _TOP / "README.md"
    readme.write_text(readme_with_settings(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
