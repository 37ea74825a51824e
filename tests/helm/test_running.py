"""What the chart renders, run as processes: the sidecar by its environment, the demo, the notes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.e2e.sidecars import START_S, STOP_S, python_process
from tests.helm.charts import CI_VALUES, environment_of, pod_of, sidecar_of
from tests.servers.redis_server import free_port
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.helm.charts import Charts, Object

PROGRAM = ["-m", "mge_cache_server"]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod's folder, its sidecar's process, and the environment of its application."""

    folder: Path
    sidecar: subprocess.Popen[bytes]
    http: str
    application: Object
    environment: dict[str, str]

    def run(self, *arguments: str) -> str:
        """Run a command of the image in the application's container; returns what it prints."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MGE_")}
        return subprocess.run(
            [sys.executable, *PROGRAM, *arguments],
            env={**environment, "PYTHONPATH": os.pathsep.join(sys.path), **self.environment},
            check=True,
            capture_output=True,
            text=True,
            timeout=START_S,
        ).stdout

    def log(self) -> str:
        """Return what the sidecar has written."""
        return "".join((self.folder / name).read_text() for name in ("out", "err"))


def start(objects: list[Object], folder: Path) -> Pod:
    """Start the sidecar of a pod as its container says, in another place than the pod's."""
    pod = pod_of(objects)
    container = sidecar_of(pod)
    assert container["command"] == ["mge-cache", "serve"]
    [application] = [each for each in pod["containers"] if each["name"] == "application"]
    http, grpc = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    places = {"0.0.0.0:9151": http, "127.0.0.1:50151": grpc, "/run/mge-cache": str(folder)}

    def moved(environment: dict[str, str]) -> dict[str, str]:
        for place, here in places.items():
            environment = {name: v.replace(place, here) for name, v in environment.items()}
        return environment

    process = python_process(
        [*PROGRAM, *container["command"][1:]],
        stdout=folder / "out",
        stderr=folder / "err",
        environment=moved(environment_of(container)),
    )
    return Pod(folder, process, http, application, moved(environment_of(application)))


async def ready(pod: Pod) -> bool:
    """Ask as the startup probe does."""
    assert pod.sidecar.poll() is None, pod.log()
    async with httpx.AsyncClient(trust_env=False) as http:
        try:
            return (await http.get(f"http://{pod.http}/readyz")).status_code == 200
        except httpx.ConnectError:
            return False


@pytest.fixture(params=["default", "plain"])
async def pod(request: pytest.FixtureRequest, charts: Charts) -> AsyncIterator[Pod]:
    """A pod of ci/default (native, unix socket) or ci/plain (127.0.0.1)."""
    [values] = [each for each in CI_VALUES if each.name == f"{request.param}-values.yaml"]
    folder = Path(tempfile.mkdtemp(prefix="mge-"))  # short: it has the socket
    made = start(charts.objects(values), folder)
    try:
        await eventually(lambda: ready(made), within_s=START_S)
        yield made
    finally:
        made.sidecar.kill()
        made.sidecar.wait()
        shutil.rmtree(folder)


def test_the_first_hit_as_the_notes_tell(pod: Pod, charts: Charts) -> None:
    notes = charts.run("install", "release", "mge-cache", "--dry-run=client")
    told = [shlex.split(line) for line in re.findall(r"^  run (\w.*)$", notes, re.MULTILINE)]
    stored, found, figures = (pod.run(*arguments) for arguments in told)
    assert stored
    assert found == "Hi there"
    assert "hits" in figures


def test_the_socket_is_the_groups_if_there_is_one(pod: Pod) -> None:
    sockets = [file for file in pod.folder.iterdir() if file.is_socket()]
    listens = [f"unix:{file}" for file in sockets] or [pod.environment["MGE_CACHE_TARGET"]]
    assert listens == [pod.environment["MGE_CACHE_TARGET"]]
    assert [stat.S_IMODE(file.stat().st_mode) for file in sockets] == [0o660] * len(sockets)


async def test_the_demo_client_runs_until_sigterm(pod: Pod) -> None:
    command = [*pod.application["command"], *pod.application["args"]]
    assert command[0] == "mge-cache"
    out, err = pod.folder / "demo-out", pod.folder / "demo-err"
    demo = python_process(
        [*PROGRAM, *command[1:]], stdout=out, stderr=err, environment=pod.environment
    )
    try:
        await eventually(lambda: "look-ups" in out.read_text(), within_s=START_S)
        demo.send_signal(signal.SIGTERM)
        await eventually(lambda: demo.poll() is not None, within_s=STOP_S)
        assert err.read_text().strip() == ""
    finally:
        demo.kill()
        demo.wait()


async def test_sigterm_ends_the_native_form_and_not_yet_the_plain_one(pod: Pod) -> None:
    plain = "127.0.0.1" in pod.environment["MGE_CACHE_TARGET"]
    pod.sidecar.send_signal(signal.SIGTERM)
    if plain:
        await eventually(lambda: "serving on before the end" in pod.log())
        assert pod.run("set", "--model", "m", "--answer", "late", "question")
        assert pod.run("get", "--model", "m", "question") == "late"
    else:
        await eventually(lambda: pod.sidecar.poll() == 0, within_s=STOP_S)
