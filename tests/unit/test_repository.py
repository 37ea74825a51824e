"""Habits of the work tree that no other tool looks after."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

LINES_MAX = 320  # "about 300"
REGISTRIES = re.compile(
    r"\b(py[p]i|test\.py[p]i|python[h]osted|docke[r]|gh[c]r|gc[r]|qua[y]|npm[j]s|conda)\.(org|io|com)\b"
)
MACHINE = re.compile(r"(?<![\w.~-])/(wor[k]|roo[t]|opt/whee[l]s)(?![\w-])")
COMMAND = re.compile(r"^\s*(?:\$ )?make(?P<words>(?: [\w-]+(?![\w=-]))*)", re.MULTILINE)


@pytest.fixture(scope="module")
def tracked(repository: Path) -> list[Path]:
    """The files of the work tree that git has, or would take."""
    git = shutil.which("git")
    if git is None or not (repository / ".git").exists():
        pytest.skip("not a clone")
    listed = subprocess.run(
        [
            *(git, "-c", "safe.directory=*"),  # CI may have cloned as another user
            *("ls-files", "-z", "--cached", "--others", "--exclude-standard"),
        ],
        cwd=repository,
        capture_output=True,
        check=True,
    ).stdout.decode()
    files = [repository / name for name in sorted(set(listed.split("\0")) - {""})]
    return [path for path in files if path.is_file()]


def text_of(path: Path) -> str:
    """A file's text; "" if it is binary."""
    content = path.read_bytes()
    return "" if b"\0" in content else content.decode(errors="replace")


def test_files_are_short(repository: Path, tracked: list[Path]) -> None:
    lengths = {
        str(path.relative_to(repository)): len(text_of(path).splitlines())
        for path in tracked
        if path.suffix in {".py", ".pyi", ".sh"} and "_pb2" not in path.name
    }
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > LINES_MAX} == {}


@pytest.mark.parametrize("pattern", [REGISTRIES, MACHINE], ids=["registry", "machine"])
def test_no_file_names_a_registry_or_a_machine(
    repository: Path, tracked: list[Path], pattern: re.Pattern[str]
) -> None:
    found = {
        f"{path.relative_to(repository)}: {match.group()}"
        for path in tracked
        for match in pattern.finditer(text_of(path))
    }
    assert found == set()


def test_the_patterns_find_what_they_are_for() -> None:
    assert REGISTRIES.search("https://py" + "pi.org/simple")
    assert MACHINE.search("in /wo" + "rk/main")
    assert not MACHINE.search("net/wo" + "rk, ~/wo" + "rk")


def make_commands(text: str) -> set[str]:
    """The targets that a document's code (blocks and spans) tells the reader to make."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return {
        word
        for code in (*blocks, *spans)
        for made in COMMAND.finditer(code)
        for word in made["words"].split()
    }


def test_every_make_target_of_the_documents_exists(repository: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (repository / "Makefile").read_text(), re.MULTILINE))
    for document in repository.glob("*.md"):
        named = make_commands(document.read_text())
        assert named <= targets, document.name


def test_the_readme_names_the_two_commands(repository: Path) -> None:
    assert {"run", "test"} <= make_commands((repository / "README.md").read_text())


def test_make_says_what_there_is(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text()
    said = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert set(re.findall(r"^  make ([\w-]+)", said, re.MULTILINE)) == set(phony[1].split())


def test_commands_are_found_in_code_only() -> None:
    text = (
        "Do make sense.\n```sh\nmake run\n$ make test ARGS='-x'\n```\nor `make demo`, `remake x`."
    )
    assert make_commands(text) == {"run", "test", "demo"}


def test_the_map_has_each_module(repository: Path) -> None:
    """ARCHITECTURE.md names it, or its last part (`_scan`) beside the module that it belongs to."""
    words = set(re.findall(r"`(\w+)`", (repository / "ARCHITECTURE.md").read_text()))
    packages = ("server/mge_cache_server", "client/mge_cache", "client/mge_cache/anthropic")
    modules = {path.stem for package in packages for path in (repository / package).glob("*.py")}
    missing = [
        module
        for module in sorted(modules)
        if not module.startswith("__")
        and module not in words
        and not any(module.endswith(word) for word in words if word.startswith("_"))
    ]
    assert missing == []
