"""Every set of values in ci/, for every version: rendered, and each object by its schema."""

from __future__ import annotations

import json
import subprocess
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.helm.charts import CI_VALUES, VERSIONS, admits, crd_folder, of_kind

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helm.charts import Charts, Object

MONITORING = ("ServiceMonitor", "PodMonitor", "PrometheusRule")
CASES = [
    pytest.param(values, version, id=f"{values.name.removesuffix('-values.yaml')}-{version}")
    for values in CI_VALUES
    for version in VERSIONS
    if admits(values, version)
]


def schema_problems(thing: Object, version: str) -> list[str]:
    """Say what is wrong with an object by Kubernetes's own schema."""
    try:
        kubernetes_validate.validate(thing, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{thing['kind']} {thing['metadata']['name']}: {error.path}: {error.message}"]
    return []


@lru_cache
def crd_validator(kind: str) -> Draft202012Validator:
    """Return the validator of one of prometheus-operator's objects."""
    file = crd_folder() / f"{kind.lower()}s-crd.json"
    [version] = json.loads(file.read_text())["spec"]["versions"]
    return Draft202012Validator(_strict(version["schema"]["openAPIV3Schema"]))


def _strict(schema: Any) -> Any:
    """Refuse unknown members, which an API server would drop without a word."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _strict(value) for name, value in schema.items()}
    named = isinstance(made.get("properties"), dict) and made.get("type") == "object"
    if named and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def test_the_cases_are_there() -> None:
    assert len(CI_VALUES) > 10
    assert {version for case in CASES for version in case.values[1:]} == set(VERSIONS)


@pytest.mark.parametrize(
    "values", [None, *CI_VALUES], ids=lambda values: getattr(values, "name", "")
)
def test_lint(charts: Charts, values: Path | None) -> None:
    given = () if values is None else ("--values", values)
    newest = ("--kube-version", VERSIONS[-1])
    assert "0 chart(s) failed" in charts.run("lint", "--strict", *newest, "mge-cache", *given)


def test_lint_of_the_library(charts: Charts) -> None:
    assert "0 chart(s) failed" in charts.run("lint", "--strict", "mge-cache-sidecar")


def test_packages(charts: Charts, tmp_path: Path) -> None:
    for chart in ("mge-cache-sidecar", "mge-cache"):
        charts.run("package", chart, "--destination", tmp_path)
    [packed] = tmp_path.glob("mge-cache-[0-9]*.tgz")
    assert charts.run("template", "x", packed) == charts.run("template", "x", "mge-cache")


@pytest.mark.parametrize(("values", "version"), CASES)
def test_every_object_by_its_schema(charts: Charts, values: Path, version: str) -> None:
    objects = charts.objects(values, version=version)
    assert objects
    core = [each for each in objects if each["kind"] not in MONITORING]
    assert [problem for each in core for problem in schema_problems(each, version)] == []


@pytest.mark.parametrize("kind", MONITORING)
def test_monitoring_by_the_operators_schema(charts: Charts, kind: str) -> None:
    if not crd_folder().is_dir():
        pytest.skip(f"no CRDs of prometheus-operator in {crd_folder()}")
    validator = crd_validator(kind)
    found = [thing for values in CI_VALUES for thing in of_kind(charts.objects(values), kind)]
    assert found
    said = [
        f"{error.json_path}: {error.message}" for x in found for error in validator.iter_errors(x)
    ]
    assert said == []
    found[0]["spec"]["endpionts"] = []
    assert list(validator.iter_errors(found[0]))


def test_a_wrong_object_is_found(charts: Charts) -> None:
    [deployment] = of_kind(charts.objects(), "Deployment")
    deployment["spec"]["template"]["spec"]["initContainers"][0]["restartPolicies"] = "Always"
    [problem] = schema_problems(deployment, VERSIONS[-1])
    assert "restartPolicies" in problem


def decoded(kubectl: str, thing: Object) -> subprocess.CompletedProcess[str]:
    """Let kubectl read a workload into Go's own types, without a server."""
    return subprocess.run(
        [kubectl, "set", "env", "--local", "--output=name", "--filename=-", "LOOKED_AT=1"],
        input=yaml.safe_dump(thing),
        capture_output=True,
        text=True,
        check=False,
    )


def test_kubectl_reads_every_workload(charts: Charts, kubectl: str) -> None:
    for values in CI_VALUES:
        for workload in of_kind(charts.objects(values), "Deployment"):
            done = decoded(kubectl, workload)
            assert done.returncode == 0, (values.name, done.stderr)


def test_kubectl_finds_a_bad_quantity(charts: Charts, kubectl: str) -> None:
    [deployment] = of_kind(charts.objects(), "Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    container["resources"]["limits"]["memory"] = "12Qi"
    done = decoded(kubectl, deployment)
    assert done.returncode != 0
    assert "quantities" in done.stderr


def test_versions_that_are_too_old_are_refused(charts: Charts) -> None:
    with pytest.raises(Exception, match=r"chart requires kubeVersion: >=1\.29\.0-0"):
        charts.text(version="1.28")
    # Vendors write their own versions.
    assert charts.objects(version="1.29.3-gke.100")


def test_rules_and_dashboard_arrive_as_they_are(charts: Charts) -> None:
    [values] = [each for each in CI_VALUES if each.name == "service-monitor-values.yaml"]
    objects = charts.objects(values)
    files = charts.folder / "mge-cache-sidecar" / "files"
    [rule] = of_kind(objects, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((files / "rules.yaml").read_text())
    [dashboard] = of_kind(objects, "ConfigMap")
    [text] = dashboard["data"].values()
    assert json.loads(text) == json.loads((files / "dashboard.json").read_text())
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
