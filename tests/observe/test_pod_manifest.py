"""The pod that podman gets from manifests for Kubernetes."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

import pytest

from tests.pod.manifest import ManifestError, Rendered, render

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
                    {"name": "secret", "secret": {"secretName": "s"}},
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
    assert set(rendered.folders) == {
        *(tmp_path / name for name in ("0-secret", "0-socket", "2-socket", "names")),
    }
    assert rendered.folders[tmp_path / "0-socket"] == 9
    assert rendered.files == {
        tmp_path / "0-secret/token": b"hi",
        tmp_path / "names/hosts": b"127.0.0.1 localhost redis\n",
    }
    assert containers(rendered)["sidecar"]["volumeMounts"][0] == {
        "name": "0-secret",
        "mountPath": "/s",
        "readOnly": True,
    }


def test_modes_are_the_kubelets(tmp_path: Path) -> None:
    # Without a group of their own, folders can be made by anybody.
    documents = [SECRET, SERVICE, {**OTHER}]
    rendered = render(documents, name="x", folder=tmp_path, image=str)
    rendered.folders = dict.fromkeys(rendered.folders, -1)
    for path in rendered.folders:
        path.mkdir(parents=True)
    try:
        rendered.write()
    except PermissionError:
        pytest.skip("only root gives files to another user")
    assert stat.S_IMODE((tmp_path / "0-socket").stat().st_mode) == 0o2770
    assert stat.S_IMODE((tmp_path / "names/hosts").stat().st_mode) == 0o444


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
