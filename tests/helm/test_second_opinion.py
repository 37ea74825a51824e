"""The second opinion on everything that is rendered; and that it finds what it is for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mge_cache_server.config import load_settings
from tests.helm.charts import (
    CI_VALUES,
    Charts,
    environment_of,
    of_kind,
    pod_of,
    sidecar_of,
)
from tests.helm.second_opinion import problems
from tests.helm.spoiled import WAYS

if TYPE_CHECKING:
    from pathlib import Path

WITH_SIDECAR = [
    values
    for values in CI_VALUES
    if values.name not in {"injection-values.yaml", "off-values.yaml"}
]


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda values: str(values.name))
def test_nothing_to_complain_about(charts: Charts, values: Path) -> None:
    assert problems(charts.objects(values)) == []


@pytest.mark.parametrize("values", WITH_SIDECAR, ids=lambda values: str(values.name))
def test_the_data_plane_is_not_on_the_pods_address(charts: Charts, values: Path) -> None:
    objects = charts.objects(values)
    sidecar = sidecar_of(pod_of(objects))
    environment = environment_of(sidecar)
    listens = environment["MGE_CACHE_LISTEN"]
    assert listens.startswith("127.0.0.1:") or environment["MGE_CACHE_UNIX_SOCKET"]
    assert environment.get("MGE_CACHE_UNIX_MODE", "660") == "660"
    [http] = sidecar["ports"]
    assert environment["MGE_CACHE_HTTP_LISTEN"].endswith(f":{http['containerPort']}")
    exposed = {
        port["targetPort"] for x in of_kind(objects, "Service") for port in x["spec"]["ports"]
    }
    assert listens.rpartition(":")[2] not in map(str, exposed)


@pytest.mark.parametrize("values", WITH_SIDECAR, ids=lambda values: str(values.name))
def test_the_sidecar_takes_its_environment(charts: Charts, values: Path, tmp_path: Path) -> None:
    pod = pod_of(charts.objects(values))
    environment = environment_of(sidecar_of(pod))
    for name, value in environment.items():
        if value.startswith("/etc/"):  # a mounted file; where it would be, is seen below
            file = tmp_path / name
            file.touch()
            environment[name] = str(file)
    settings = load_settings({}, environment)
    assert settings.unix_socket or settings.listen
    [application] = [each for each in pod["containers"] if each["name"] == "application"]
    target = environment_of(application)["MGE_CACHE_TARGET"]
    assert target in {f"unix:{settings.unix_socket}", settings.listen}


@pytest.mark.parametrize("values", WITH_SIDECAR, ids=lambda values: str(values.name))
def test_every_secret_is_a_file_in_a_mounted_folder(charts: Charts, values: Path) -> None:
    pod = pod_of(charts.objects(values))
    sidecar = sidecar_of(pod)
    volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
    files = {
        f"{mount['mountPath']}/{item['path']}"
        for mount in sidecar.get("volumeMounts", ())
        for item in volumes[mount["name"]].get("secret", {}).get("items", ())
    }
    named = {
        value
        for name, value in environment_of(sidecar).items()
        if name.endswith("_FILE") and name != "MGE_CACHE_PRICES_FILE"
    }
    assert named == files


@pytest.mark.parametrize("wanted", WAYS)
def test_what_is_wrong_is_found(charts: Charts, wanted: str) -> None:
    [values] = [each for each in CI_VALUES if each.name == "service-monitor-values.yaml"]
    objects = charts.objects(values)
    assert problems(objects) == []
    WAYS[wanted](objects)
    assert wanted in "\n".join(problems(objects))
