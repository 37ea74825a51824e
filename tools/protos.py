"""Generates the Python code of the contract: ``python -m tools.protos [--check] DIRECTORY``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from subprocess import run

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = Path("mge_cache", "v1")


def generate(directory: Path) -> None:
    """Writes the modules and their ``.pyi`` into ``directory``/mge_cache/v1.

    The plugins come from the environment of the running Python, whatever PATH says. Raises
    ``CalledProcessError`` if the contract does not compile.
    """
    sources = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))
    plugins = str(Path(sys.executable).parent)
    run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc"),
            *("--proto_path", str(PROTOS)),
            *("--proto_path", str(files("grpc_tools") / "_proto")),
            *(f"--{plugin}_out={directory}" for plugin in ("python", "grpc_python")),
            f"--mypy_out=quiet:{directory}",
            # As in the code, a method that a servicer does not write answers UNIMPLEMENTED.
            f"--mypy_grpc_out=quiet,generate_concrete_servicer_stubs:{directory}",
            *sources,
        ],
        check=True,
        env=os.environ | {"PATH": os.pathsep.join((plugins, os.environ.get("PATH", os.defpath)))},
    )


def differences(directory: Path, fresh: Path) -> list[str]:
    """Names the generated files in which ``directory`` differs from ``fresh``, sorted."""
    return sorted(
        name
        for name in _generated(directory) | _generated(fresh)
        if _content(directory / PACKAGE / name) != _content(fresh / PACKAGE / name)
    )


def _generated(directory: Path) -> set[str]:
    return {path.name for path in (directory / PACKAGE).glob("*_pb2*.py*")}


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def main() -> int:
    """Generates, or says what is stale; returns the exit code."""
    parser = argparse.ArgumentParser(description="Generate the Python code of the contract.")
    parser.add_argument("--check", action="store_true", help="change nothing, name what is stale")
    parser.add_argument("directory", type=Path, help="where mge_cache/v1 is")
    options = parser.parse_args()
    if not options.check:
        generate(options.directory)
        return 0
    with tempfile.TemporaryDirectory() as fresh:
        generate(Path(fresh))
        stale = differences(options.directory, Path(fresh))
    for name in stale:
        print(f"{options.directory / PACKAGE / name}: stale, run `make proto`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
