"""``make pod-test`` runs these tests: they need an image, and root. ``make test`` does not."""

from __future__ import annotations

import os
import shlex

import pytest

from tests.pod.podman import Podman

COMMAND = "POD_TEST_PODMAN"
collect_ignore_glob = [] if COMMAND in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def podman() -> Podman:
    """The podman that has the images."""
    return Podman(shlex.split(os.environ[COMMAND]))
