"""The pod that podman gets from manifests for Kubernetes."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from tests.pod.manifest import ManifestError, Rendered, Volume, render

if TYPE_CHECKING:
    from pathlib import Path

SIDECAR = {
    "name": "sidecar",
    "image": "cache",
    "restartPolicy": "Always",
    "args": ["serve", "--key-prefix", "$(PREFIX)"],
    "startupProbe": {"httpGet": {"path": "/readyz", "port": 9151}},
    "ports": [{"containerPort": 9151}],
    "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "64Mi", "cpu": "1"}},
    "securityContext": {"runAsUser": 7, "readOnlyRootFilesystem": True},
    "env": [
        {"name": "PREFIX", "value": "p"},
        {
            "name": "TOKEN",
            "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}},
        },
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ],
    "volumeMounts": [{"name": "secret", "mountPath": "/s", "readOnly": True}],
}
MIGRATION = {"name": "migration", "image": "app"}
SECRET = {"kind": "Secret", "metadata": {"name": "s"}, "data": {"token": "aGk="}}
SERVICE = {"kind": "Service", "metadata": {"name": "redis"}}
DEPLOYMENT: dict[str, Any] = {
    "kind": "Deployment",
    "metadata": {"name": "app"},
    "spec": {
        "template": {
            "spec": {
                "securityContext": {"runAsUser": 5, "fsGroup": 9},
                "initContainers": [MIGRATION, SIDECAR],
                "containers": [{"name": "app", "image": "app"}],
                "volumes": [
                    {"name": "secret", "secret": {"secretName": "s", "defaultMode": 0o400}},
                    {"name": "socket", "emptyDir": {}},
                ],
            }
        }
    },
}
OTHER = {
    "kind": "StatefulSet",
    "metadata": {"name": "redis"},
    "spec": {
        "template": {
            "spec": {
                "containers": [{"name": "redis", "image": "redis"}],
                "volumes": [{"name": "socket", "emptyDir": {}}],
            }
        }
    },
}
DOCUMENTS = [SECRET, SERVICE, DEPLOYMENT, OTHER]


@pytest.fixture
def rendered(tmp_path: Path) -> Rendered:
    return render(
        DOCUMENTS,
        name="x",
        folder=tmp_path,
        image=lambda image: f"local/{image}",
        environment={"app": {"MORE": "1"}},
    )


def containers(rendered: Rendered) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in rendered.pod["spec"]["containers"]}


def test_native_sidecars_become_containers_and_workloads_one_pod(rendered: Rendered) -> None:
    spec = rendered.pod["spec"]
    assert [each["name"] for each in spec["containers"]] == ["sidecar", "app", "redis"]
    assert [each["name"] for each in spec["initContainers"]] == ["migration"]
    assert [each["image"] for each in spec["containers"]] == [
        "local/cache",
        "local/app",
        "local/redis",
    ]
    assert "restartPolicy" not in containers(rendered)["sidecar"]


def test_what_podman_cannot_do_is_left_out(rendered: Rendered) -> None:
    sidecar = containers(rendered)["sidecar"]
    assert not {"startupProbe", "ports"} & set(sidecar)
    assert sidecar["resources"] == {"limits": {"memory": "64Mi"}}


def test_users_and_groups(rendered: Rendered) -> None:
    made = containers(rendered)
    assert made["sidecar"]["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "runAsUser": 7,
        "runAsGroup": 9,
    }
    assert made["app"]["securityContext"] == {"runAsUser": 5, "runAsGroup": 9}
    assert made["redis"]["securityContext"] == {}


def test_variables(rendered: Rendered) -> None:
    made = containers(rendered)
    assert made["sidecar"]["env"] == [
        {"name": "PREFIX", "value": "p"},
        {"name": "TOKEN", "value": "hi"},
        {"name": "POD", "value": "x"},
    ]
    assert made["sidecar"]["args"] == ["serve", "--key-prefix", "p"]
    assert made["app"]["env"] == [{"name": "MORE", "value": "1"}]


def test_volumes_are_folders_and_do_not_collide(rendered: Rendered, tmp_path: Path) -> None:
    assert rendered.volumes == {
        tmp_path / "0-secret": Volume(0o755, {"token": b"hi"}, 0o400, 9),
        tmp_path / "0-socket": Volume(group=9),
        tmp_path / "2-socket": Volume(),
        tmp_path / "names": Volume(0o755, {"hosts": b"127.0.0.1 localhost redis\n"}),
    }
    assert containers(rendered)["sidecar"]["volumeMounts"][0] == {
        "name": "0-secret",
        "mountPath": "/s",
        "readOnly": True,
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another user")
def test_modes_are_the_kubelets(tmp_path: Path) -> None:
    Volume(group=9).write(tmp_path / "shared")
    Volume().write(tmp_path / "own")
    Volume(0o755, {"token": b"hi"}, 0o400, 9).write(tmp_path / "secret")
    modes = {
        str(path.relative_to(tmp_path)): (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid)
        for path in tmp_path.rglob("*")
    }
    assert modes == {
        "shared": (0o2777, 9),
        "own": (0o777, 0),
        "secret": (0o2755, 9),
        "secret/token": (0o440, 9),
    }


@pytest.mark.parametrize(
    "volume",
    [
        {"name": "v", "persistentVolumeClaim": {"claimName": "x"}},
        {"name": "v", "secret": {"secretName": "absent"}},
    ],
)
def test_what_it_does_not_know_is_an_error(tmp_path: Path, volume: dict[str, Any]) -> None:
    pod = {
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [], "volumes": [volume]},
    }
    with pytest.raises(ManifestError):
        render([pod], name="x", folder=tmp_path, image=str)
