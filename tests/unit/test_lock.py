"""requirements.lock fits pyproject.toml, and says nothing of where it was made."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def lock(repository: Path) -> str:
    return (repository / "requirements.lock").read_text()


def pinned(lock: str) -> dict[str, str]:
    """Distribution to version."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", lock, re.MULTILINE))


def misfits(requirements: list[str], pins: dict[str, str]) -> list[str]:
    """The requirements that ``pins`` leaves out, or has in a version that they refuse."""
    return [
        text
        for text in requirements
        if (requirement := Requirement(text)).name != "mge-cache"
        and not (
            (version := pins.get(canonicalize_name(requirement.name)))
            and requirement.specifier.contains(version)
        )
    ]


def test_everything_declared_is_locked(repository: Path, lock: str) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    requirements = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(each for extra in project["project"]["optional-dependencies"].values() for each in extra),
    ]
    assert misfits(requirements, pinned(lock)) == []


def test_a_misfit_is_seen() -> None:
    assert misfits(["a>=2", "b", "mge-cache[x]", "C_d<2"], {"a": "1.9", "c-d": "1"}) == [
        "a>=2",
        "b",
    ]


def test_every_pin_has_a_hash_and_there_is_no_address(lock: str) -> None:
    entries = re.split(r"^(?=\w)", lock, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pinned(lock)) > 0
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in lock
    assert re.findall(r"^--.*", lock, re.MULTILINE) == []
