"""The manifests of the tests' pod: what the chart makes, or by hand where there is no chart yet."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path

_HELM_S = 60.0


def documents(repository: Path, folder: Path) -> list[dict[str, Any]]:
    """Return the manifests, and what they name: the application's code and Valkey's password.

    The charts are copied into ``folder``, with their dependencies.
    """
    here = repository / "tests/pod"
    if (repository / "helm/mge-cache/Chart.yaml").exists():
        text = _rendered(repository, folder, here / "values.yaml")
    else:
        text = (here / "pod.yaml").read_text()
    return [
        *yaml.safe_load_all(text),
        {
            "kind": "ConfigMap",
            "metadata": {"name": "application"},
            "data": {"application.py": (here / "application.py").read_text()},
        },
        {
            "kind": "Secret",
            "metadata": {"name": "valkey"},
            "stringData": {"password": "hunter2"},
        },
    ]


def _rendered(repository: Path, folder: Path, values: Path) -> str:
    helm = shutil.which("helm", path=f"{repository / '.helm/bin'}{os.pathsep}{os.environ['PATH']}")
    assert helm is not None, "there is a chart, but no helm"
    homes = ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
    environment = {**os.environ, **dict.fromkeys(homes, str(folder / "home"))}
    for name in ("mge-cache-sidecar", "mge-cache"):
        ignored = shutil.ignore_patterns("charts", "Chart.lock")
        shutil.copytree(repository / "helm" / name, folder / name, ignore=ignored)

    def run(*arguments: str) -> str:
        return subprocess.run(
            [helm, *arguments],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=_HELM_S,
        ).stdout

    chart = str(folder / "mge-cache")
    run("dependency", "update", chart)
    return run("template", "release", chart, "--values", str(values), "--kube-version", "1.33")
