"""Real helm on copies of the charts; what it renders is read once for each set of values."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

TOP = Path(__file__).resolve().parents[2]
HELM = TOP / "helm"
CI_VALUES = tuple(sorted((HELM / "mge-cache" / "ci").glob("*-values.yaml")))
VERSIONS = ("1.29", "1.33", "1.37")
"""The oldest version that the charts admit, one in the middle, and the newest that we know."""

INJECTION_SINCE = "1.36"
RELEASE, NAMESPACE = "release", "answers"

Object = dict[str, Any]


class MissingToolError(Exception):
    """There is no helm or kubectl."""


class RenderError(Exception):
    """Helm has refused; the text is what it said."""


def find_tool(name: str) -> str:
    """Return the path of helm or kubectl; raises MissingToolError."""
    fetched = TOP / ".helm" / "bin" / name
    found = str(fetched) if fetched.exists() else shutil.which(name)
    if found is None:
        raise MissingToolError(f"no {name}: `make helm` fetches it")
    return found


@dataclass(frozen=True, slots=True)
class Charts:
    """Charts in a folder, with their dependencies in place. Any thread may use it."""

    folder: Path

    def run(self, *arguments: str | Path, stdin: str = "") -> str:
        """Run helm, and return its output; raises RenderError with what it says."""
        homes = ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        done = subprocess.run(
            [find_tool("helm"), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "KUBECONFIG": os.devnull,
                **{home: str(self.folder / ".home") for home in homes},
            },
        )
        if done.returncode:
            raise RenderError(done.stderr + done.stdout)
        return done.stdout

    def text(
        self,
        values: Path | None = None,
        *,
        chart: str = "mge-cache",
        version: str = VERSIONS[-1],
        release: str = RELEASE,
        settings: tuple[str, ...] = (),
        more: tuple[str, ...] = (),
    ) -> str:
        """Return what `helm template` writes; ``settings`` are those of --set-json."""
        return self.run(
            *("template", release, self.folder / chart),
            *("--namespace", NAMESPACE, "--kube-version", version),
            *(() if values is None else ("--values", values)),
            *(word for each in settings for word in ("--set-json", each)),
            *more,
        )

    def objects(
        self,
        values: Path | None = None,
        *,
        chart: str = "mge-cache",
        version: str = VERSIONS[-1],
        release: str = RELEASE,
        settings: tuple[str, ...] = (),
    ) -> list[Object]:
        """Return the objects that the chart makes."""
        text = self.text(values, chart=chart, version=version, release=release, settings=settings)
        return read_objects(text)


def read_objects(text: str) -> list[Object]:
    """Read a stream of YAML documents; empty ones are left out."""
    return [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]


def copy_charts(folder: Path) -> Charts:
    """Copy our charts into a folder, and put the library into the application chart."""
    for name in ("mge-cache-sidecar", "mge-cache"):
        leftovers = shutil.ignore_patterns("charts", "Chart.lock")
        shutil.copytree(HELM / name, folder / name, ignore=leftovers)
    charts = Charts(folder)
    charts.run("dependency", "update", folder / "mge-cache")
    return charts


def admits(values: Path, version: str) -> bool:
    """Whether a version of Kubernetes has what some values ask for."""
    return "injection" not in values.name or _number(version) >= _number(INJECTION_SINCE)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@lru_cache
def crd_folder() -> Path:
    """Say where the shared folder with prometheus-operator's CRDs is; it may not exist."""
    return TOP.parent / "shared" / "data" / "crds"


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """Return the objects of a kind."""
    return [each for each in objects if each["kind"] == kind]


def sidecar_of(pod: Object) -> Object:
    """Return the sidecar's container in a pod's spec."""
    containers = [*pod.get("initContainers", ()), *pod["containers"]]
    [sidecar] = [each for each in containers if each["name"] == "mge-cache"]
    return dict(sidecar)


def pod_of(objects: list[Object], component: str = "application") -> Object:
    """Return the spec of the pods of the one Deployment of a component."""
    [found] = [
        each
        for each in of_kind(objects, "Deployment")
        if each["metadata"]["labels"].get("app.kubernetes.io/component") == component
    ]
    return dict(found["spec"]["template"]["spec"])


def environment_of(container: Object) -> dict[str, str]:
    """Return a container's environment."""
    return {each["name"]: each["value"] for each in container.get("env", ())}
