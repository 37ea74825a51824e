"""What schemas miss: looks at all objects of a release together, and says what is wrong."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.helm.pod_opinion import pod_problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.helm.charts import Object

_DNS = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_LABEL_MAX = 63
_POLICIES = ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding")
DATA_PLANE = "MGE_CACHE_LISTEN"


def problems(objects: list[Object]) -> list[str]:
    """Return a line for each thing that is wrong; objects of one namespace."""
    pods = [(x["metadata"]["name"], x["spec"]["template"]) for x in objects if _has_pods(x)]
    said = [*_names(objects), *_joins(objects, pods)]
    for name, template in pods:
        said += [f"{name}: {problem}" for problem in pod_problems(template["spec"])]
    return said


def _has_pods(thing: Object) -> bool:
    return thing["kind"] in {"Deployment", "StatefulSet", "DaemonSet", "Job"}


def _names(objects: list[Object]) -> Iterator[str]:
    found = Counter((x["kind"], x["metadata"]["name"]) for x in objects)
    yield from (f"{kind} {name} is there twice" for (kind, name), n in found.items() if n > 1)
    for thing in objects:
        name, where = thing["metadata"]["name"], f"{thing['kind']} {thing['metadata']['name']}"
        if len(name) > _LABEL_MAX or not _DNS.fullmatch(name):
            yield f"{where}: no good name"
        for label, value in thing["metadata"].get("labels", {}).items():
            if len(value) > _LABEL_MAX or not _LABEL.fullmatch(value):
                yield f"{where}: no good label {label}={value}"
        if thing["kind"] not in _POLICIES and not thing["metadata"].get("namespace"):
            yield f"{where}: no namespace"


def _joins(objects: list[Object], pods: list[tuple[str, Any]]) -> Iterator[str]:
    for thing in objects:
        where = f"{thing['kind']} {thing['metadata']['name']}"
        spec = thing.get("spec", {})
        match thing["kind"]:
            case "Deployment" | "StatefulSet" | "DaemonSet":
                if not _selects(spec["selector"]["matchLabels"], _labels(spec["template"])):
                    yield f"{where}: its selector does not match its pods"
            case "Service":
                yield from _service(where, spec, pods)
            case "ServiceMonitor":
                yield from _service_monitor(where, spec, objects)
            case "PodMonitor" if "namespaceSelector" not in spec:  # else the pods are others'
                ports = [each["portNumber"] for each in spec["podMetricsEndpoints"]]
                yield from _reaches(where, spec["selector"]["matchLabels"], ports, pods)
            case "NetworkPolicy":
                ports = [port["port"] for rule in spec.get("ingress", ()) for port in rule["ports"]]
                yield from _reaches(where, spec["podSelector"]["matchLabels"], ports, pods)
            case "MutatingAdmissionPolicyBinding":
                names = {x["metadata"]["name"] for x in objects if x["kind"] == _POLICIES[0]}
                if spec["policyName"] not in names:
                    yield f"{where}: there is no such policy"


def _service(where: str, spec: Any, pods: list[tuple[str, Any]]) -> Iterator[str]:
    for port in spec["ports"]:
        if spec.get("clusterIP") == "None" and not isinstance(port["targetPort"], int):
            yield f"{where}: named ports of native sidecars are new to old versions"
    yield from _reaches(
        where, spec["selector"], [port["targetPort"] for port in spec["ports"]], pods
    )


def _service_monitor(where: str, spec: Any, objects: list[Object]) -> Iterator[str]:
    wanted = spec["selector"]["matchLabels"]
    services = [
        x
        for x in objects
        if x["kind"] == "Service" and _selects(wanted, x["metadata"].get("labels", {}))
    ]
    if len(services) != 1:
        yield f"{where}: selects {len(services)} Services"
        return
    named = {port["name"] for port in services[0]["spec"]["ports"]}
    for endpoint in spec["endpoints"]:
        if endpoint["port"] not in named:
            yield f"{where}: the Service has no port {endpoint['port']}"


def _reaches(
    where: str, selector: Mapping[str, str], ports: list[int | str], pods: list[tuple[str, Any]]
) -> Iterator[str]:
    """Check that one workload is selected, and that its containers have the ports."""
    found = [template for _, template in pods if _selects(selector, _labels(template))]
    if len(found) != 1:
        yield f"{where}: selects {len(found)} workloads"
        return
    spec = found[0]["spec"]
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        for port in container.get("ports", ()):
            ports = [x for x in ports if x not in {port["containerPort"], port.get("name")}]
    yield from (f"{where}: no container has the port {port}" for port in ports)


def _labels(template: Any) -> Mapping[str, str]:
    labels: Mapping[str, str] = template["metadata"]["labels"]
    return labels


def _selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()
