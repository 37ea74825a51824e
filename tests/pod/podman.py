"""The podman command, on the storage that ``make pod-test`` made."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path

COMMAND_S = 90.0


class PodmanError(Exception):
    """The command failed; the text is what it wrote."""


class Podman:
    """``command`` is podman with the options that name its storage."""

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def run(self, *arguments: str) -> str:
        """Run a podman command; return its output. Raises PodmanError."""
        done = subprocess.run(
            [*self._command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_S,
        )
        if done.returncode != 0:
            raise PodmanError(f"podman {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def logs(self, container: str) -> str:
        """Return what a container wrote since it was made, both streams, restarts included."""
        done = subprocess.run(
            [*self._command, "logs", container],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=COMMAND_S,
        )
        return done.stdout

    def inspect(self, container: str) -> dict[str, Any]:
        """Return what podman knows of a container."""
        [found] = json.loads(self.run("container", "inspect", container))
        state: dict[str, Any] = found
        return state

    def exit_codes(self, container: str) -> list[int]:
        """Return the code of every time that the container ended, oldest first."""
        events = self.run(
            *("events", "--stream=false", "--format", "json"),
            *("--filter", f"container={container}", "--filter", "event=died"),
        )
        lines = [json.loads(line) for line in events.splitlines() if line.strip()]
        return [int(line.get("ContainerExitCode", 0)) for line in lines]

    def play(self, pod: dict[str, Any], file: Path) -> None:
        """Start a pod without a network; ``file`` is where its manifest is written."""
        file.write_text(yaml.safe_dump(pod))
        self.run("kube", "play", "--network=none", "--log-driver=k8s-file", str(file))

    def remove(self, pod: str) -> None:
        """Remove a pod, at once."""
        self.run("pod", "rm", "--force", "--time=0", "--ignore", pod)
