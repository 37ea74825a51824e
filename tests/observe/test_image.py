"""What goes into the image: the same wheel each time, by locks that fit."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from tools.image_strip import strip_packages

if TYPE_CHECKING:
    from pathlib import Path

IN_THE_IMAGE = ("pyproject.toml", "README.md", "client", "server")
EPOCH = "1580601600"


def wheel_of(repository: Path, folder: Path) -> Path:
    """Build the wheel as the Containerfile does, from a copy with other times."""
    folder.mkdir()
    for name in IN_THE_IMAGE:
        if (repository / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(
                repository / name, folder / name, ignore=ignored, copy_function=shutil.copyfile
            )
        else:
            shutil.copyfile(repository / name, folder / name)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "made"],
        cwd=folder,
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
        check=True,
        capture_output=True,
    )
    [wheel] = (folder / "made").glob("*.whl")
    return wheel


def test_the_same_sources_make_the_same_wheel(repository: Path, tmp_path: Path) -> None:
    wheels = [wheel_of(repository, tmp_path / name) for name in ("one", "another")]
    digests = {hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels}
    assert len(digests) == 1
    with zipfile.ZipFile(wheels[0]) as wheel:
        assert {each.date_time for each in wheel.infolist()} == {(2020, 2, 2, 0, 0, 0)}
        names = wheel.namelist()
    assert "mge_cache_server/app.py" in names
    assert "mge_cache/v1/cache_service_pb2.py" in names


def entries(lock: Path) -> dict[str, str]:
    """Each pin with its hashes, by distribution."""
    parts = re.split(r"^(?=\w)", lock.read_text(), flags=re.MULTILINE)[1:]
    return {part.partition("==")[0]: re.sub(r" ;[^\\]*", " ", part) for part in parts}


@pytest.mark.parametrize("name", ["server", "embedded", "build"])
def test_the_image_has_what_is_tested(repository: Path, name: str) -> None:
    everything = entries(repository / "requirements.lock")
    lock = repository / f"requirements-{name}.lock"
    assert "://" not in lock.read_text()
    of_image = entries(lock)
    assert of_image
    for distribution, pin in of_image.items():
        # Some are for other platforms only, which the tests' lock leaves out in part.
        assert everything.get(distribution, pin) == pin
        assert "--hash=sha256:" in pin


def test_the_containerfile_takes_by_hash_and_runs_as_nobody(repository: Path) -> None:
    text = (repository / "Containerfile").read_text()
    assert text.count("--require-hashes") == text.count("--requirement") == 2
    assert re.search(r"^USER 65532:65532$", text, re.MULTILINE)
    assert "ARG SOURCE_DATE_EPOCH=" + EPOCH in text


def test_packages_lose_tests_and_stubs_and_are_compiled(tmp_path: Path) -> None:
    packages = tmp_path / "lib/python3.11/site-packages"
    for name in ("p/tests/t.py", "p/m.py", "p/m.pyi", "p/core.h", "p/data.json"):
        path = packages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    strip_packages(tmp_path)
    left = {str(path.relative_to(packages)) for path in packages.rglob("*") if path.is_file()}
    [compiled] = [name for name in left if name.endswith(".pyc")]
    assert left == {"p/m.py", "p/data.json", compiled}
    flags = int.from_bytes((packages / compiled).read_bytes()[4:8], "little")
    assert flags == 0b01, "by hash, and not checked: no time is in it"
