"""A real Prometheus (Debian's package ``prometheus``) on a port of 127.0.0.1."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import httpx
import yaml

from tests.e2e.sidecars import python_process
from tests.servers import MissingServerError
from tests.servers.redis_server import free_port
from tests.waiting import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from pathlib import Path

READY_S = 60.0
_EXEC = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"


def find_promtool() -> str:
    """Return the path of promtool; raises MissingServerError."""
    return _find("promtool")


def _find(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise MissingServerError(f"no {name} in PATH (apt install prometheus)")
    return found


class Prometheus:
    """Scrapes one target every second, and evaluates rules as often."""

    def __init__(self, folder: Path) -> None:
        self._binary = _find("prometheus")
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{free_port()}", timeout=30.0, trust_env=False
        )

    async def start(self, *, target: str, labels: Mapping[str, str], job: str, rules: Path) -> None:
        """Start it, and wait until it is ready. ``target`` is ``host:port``."""
        config = self._folder / "prometheus.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(rules)],
                    "scrape_configs": [
                        {
                            "job_name": job,
                            "static_configs": [{"targets": [target], "labels": dict(labels)}],
                        }
                    ],
                }
            )
        )
        self._process = python_process(
            [
                *("-S", "-c", _EXEC, self._binary, f"--config.file={config}"),
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address={self._http.base_url.netloc.decode()}",
                "--log.level=warn",
            ],
            stdout=self._folder / "stdout",
            stderr=self._folder / "stderr",
        )
        await eventually(self._is_ready, within_s=READY_S, every_s=0.1)

    async def close(self) -> None:
        """End it."""
        await self._http.aclose()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def query(self, promql: str) -> list[Any]:
        """Return the samples of an instant query."""
        data = await self._get("/api/v1/query", {"query": promql})
        result: list[Any] = data["result"]
        return result

    async def label_values(self, label: str, series: str) -> list[str]:
        """Return what Grafana offers for a variable ``label_values(series, label)``."""
        values: list[str] = await self._get(f"/api/v1/label/{label}/values", {"match[]": series})
        return values

    async def rules(self) -> list[dict[str, Any]]:
        """Return the state of every rule."""
        groups = (await self._get("/api/v1/rules", {}))["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def _get(self, path: str, parameters: dict[str, str]) -> Any:
        answer = await self._http.get(path, params=parameters)
        content = answer.json()
        if content["status"] != "success":
            raise ValueError(f"{parameters}: {content['error']}")
        return content["data"]

    async def _is_ready(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError((self._folder / "stderr").read_text())
        try:
            return (await self._http.get("/-/ready")).is_success
        except httpx.TransportError:
            return False
