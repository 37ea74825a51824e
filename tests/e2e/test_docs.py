"""What the guides show, run as it stands there; a ``text`` block after it is what it prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.e2e.test_readme import run
from tests.hanging import until_settled

if TYPE_CHECKING:
    from tests.e2e.sidecars import Launch

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("guide.md", "retrieval.md")
LINKED = [*sorted(DOCS.glob("*.md")), *sorted(DOCS.parent.glob("*.md"))]
EXAMPLE = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<printed>.*?)^```)?", re.DOTALL | re.MULTILINE
)


class Example(NamedTuple):
    page: str
    line: int
    code: str
    printed: str | None


def examples() -> list[Example]:
    return [
        Example(page, text[: found.start()].count("\n") + 1, found["code"], found["printed"])
        for page in PAGES
        for text in [(DOCS / page).read_text()]
        for found in EXAMPLE.finditer(text)
    ]


@pytest.mark.parametrize("example", examples(), ids=lambda each: f"{each.page}:{each.line}")
async def test_each_example(
    launch: Launch, anthropic_settings: dict[str, str], example: Example, tmp_path: Path
) -> None:
    sidecar = await launch(tcp=True, environment=anthropic_settings)
    await until_settled(sidecar)  # the examples have the usual time limits
    (tmp_path / "example.py").write_text(example.code)
    where = {"MGE_CACHE_TARGET": sidecar.target, **anthropic_settings}
    # On a busy machine a process's first look-up can miss its deadline; then it is no hit.
    for _ in range(5):
        code, said = await run("example.py", cwd=tmp_path, settings=where)
        assert code == 0, said
        if said == (example.printed or said):
            return
        await sidecar.stop()
        await sidecar.start()  # empty again
    assert said == example.printed


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        if file.startswith("http"):
            continue
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in slugs, target
