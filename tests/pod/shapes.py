"""The manifests of the tests' pod: what the chart makes of ``values.yaml`` here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.helm.charts import copy_charts, read_objects

if TYPE_CHECKING:
    from pathlib import Path


def documents(repository: Path, folder: Path) -> list[dict[str, Any]]:
    """Return the manifests, and what they name: the application's code and Valkey's password.

    The charts are copied into ``folder``, with their dependencies.
    """
    here = repository / "tests/pod"
    return [
        *read_objects(copy_charts(folder).text(here / "values.yaml")),
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
