"""Used by the Containerfile: removes what a running sidecar does not need, and compiles the rest.

``image_strip.py packages VENV`` is for the virtual environment, ``image_strip.py system`` for the
base image. Needs nothing but the standard library, and any Python from 3.11.
"""

from __future__ import annotations

import compileall
import shutil
import sys
import sysconfig
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_STDLIB = ("ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter", "turtledemo")
_INSTALLERS = ("pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack", "distutils-*")
_SITES = ("site-packages", "dist-packages")
_COMMANDS = (
    *("pip*", "wheel*", "easy_install*", "2to3*", "idle*", "pydoc*"),
    *(
        "apt",
        "apt-*",
        "dpkg",
        "dpkg-*",
        "perl*",
        "gcc*",
        "cc",
        "c++",
        "g++*",
        "ld",
        "ld.*",
        "as",
        "make",
    ),
)
_FOLDERS = (
    *("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/perl"),
    *("usr/share/python-wheels", "usr/share/lintian", "usr/share/bash-completion", "usr/include"),
    *(
        "usr/local/include",
        "usr/local/share/man",
        "usr/lib/apt",
        "usr/share/perl5",
        "usr/share/bug",
    ),
    *("var/cache", "var/lib/apt", "var/log", "root", "tmp", "src"),
)
"""Emptied or removed. The list of Debian's packages stays: scanners read it."""


def strip_packages(venv: Path) -> None:
    """Remove tests, stubs and headers from a virtual environment, and compile it."""
    [packages] = venv.glob("lib/python3*/site-packages")
    for pattern in ("**/tests", "**/*.pyi", "**/*.pyx", "**/*.pxd", "**/*.h", "**/__pycache__"):
        _remove(packages.glob(pattern))
    _compile(packages)


def strip_system(root: Path) -> None:
    """Remove installers, compilers, documentation and caches below ``root``; compile the rest."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    _remove(stdlib / name for name in _STDLIB)
    _remove(stdlib.glob("config-*"))
    # Debian keeps what it installs for all of its Pythons elsewhere.
    for library in {stdlib, root / "usr/lib/python3", root / "usr/local/lib/python3"}:
        for site in _SITES:
            for name in _INSTALLERS:
                _remove((library / site).glob(name))
                _remove((library / site).glob(f"{name}-*"))
    for folder in ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin"):
        for pattern in _COMMANDS:
            _remove((root / folder).glob(pattern))
    for folder in _FOLDERS:
        if (root / folder).is_dir():
            _remove((root / folder).iterdir())
    _compile(stdlib)


def _remove(paths: Iterator[Path]) -> None:
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _compile(folder: Path) -> None:
    """Compile all modules; the same sources give the same bytes."""
    compileall.compile_dir(
        folder,
        quiet=2,  # some packages carry files for other Pythons
        maxlevels=30,
        force=True,
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )


if __name__ == "__main__":
    if sys.argv[1] == "packages":
        strip_packages(Path(sys.argv[2]))
    else:
        strip_system(Path("/"))
